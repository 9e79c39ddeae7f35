"""A model as one program that runs where karst_bench is not: ONNX, or a program of torch.export. Merged or with its method."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from karst_bench import files
from karst_bench.errors import UserError
from karst_bench.nn.eval_mode import eval_mode

if TYPE_CHECKING:  # torch.export brings the compiler along, seconds of imports
    from torch.export import ExportedProgram

log = logging.getLogger(__name__)
BATCHES = (1, 3)  # what the written program is tried with
AGREES = 1e-4  # of logits, of the largest of them where that is above 1


def export_program(net: nn.Module, path: Path, *, form: str, size: tuple[int, int], about: Mapping[str, str]) -> float:
    """Writes the model in evaluation, normalised images (n, 3, H, W) -> logits (n, classes) for any n, and runs what was
    written. form: onnx | torch; about: texts that travel in the file. Returns the largest difference of its logits.

    Raises: UserError where torch cannot follow the model, a package is missing, or the program computes something else.
    """
    write = {"onnx": _write_onnx, "torch": _write_torch}[form]
    with eval_mode(net), torch.no_grad():
        program = _exported(net, size)
        run = write(program, path, about)
        return _largest_difference(net, run, size, path)


def _exported(net: nn.Module, size: tuple[int, int]) -> "ExportedProgram":
    example = torch.zeros(2, 3, *size, device=next(net.parameters()).device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dynamic = ({0: torch.export.Dim("batch", min=1, max=2**31 - 1)},)  # torch 2.6 wants an end
            return torch.export.export(net, (example,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # whatever torch's tracer stumbles over
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"torch.export cannot follow this {type(net).__name__} ({type(error).__name__}: {reason}); a method that merges "
            "is exported merged, the others may need another torch"
        ) from error


def _write_torch(program: "ExportedProgram", path: Path, about: Mapping[str, str]) -> Callable[[Tensor], Tensor]:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"karst_bench.json": json.dumps(dict(about), sort_keys=True)})
    files.write(path, buffer.getvalue(), setting="out")
    run: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return run


def _write_onnx(
    program: "ExportedProgram", path: Path, about: Mapping[str, str]
) -> Callable[[Tensor], Tensor] | None:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx.export asks for it
    except ImportError as error:
        raise UserError(f"format=onnx needs {error.name}: pip install 'karst_bench[export]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["images"], output_names=["logits"])
    assert made is not None
    model: Any = made.model_proto
    onnx.helper.set_model_props(model, {f"karst_bench.{key}": text for key, text in sorted(about.items())})
    files.write(path, model.SerializeToString(), setting="out")
    return _in_onnxruntime(path)


def _in_onnxruntime(path: Path) -> Callable[[Tensor], Tensor] | None:
    try:
        import onnxruntime
    except ImportError:
        log.warning("%s was written, but not tried: onnxruntime is not here (pip install 'karst_bench[export]')", path)
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])


def _largest_difference(
    net: nn.Module, run: Callable[[Tensor], Tensor] | None, size: tuple[int, int], path: Path
) -> float:
    if run is None:
        return float("nan")
    worst = 0.0
    device, generator = next(net.parameters()).device, torch.Generator().manual_seed(0)
    for batch in BATCHES:
        images = torch.randn(batch, 3, *size, generator=generator).to(device)
        expected, found = net(images).cpu(), run(images).cpu()
        worst = max(worst, ((found - expected).abs().max() / expected.abs().max().clamp_min(1)).item())
    if not worst <= AGREES:
        raise UserError(f"{path}: the program's logits differ from the model's by {worst:.2g}; use another format or torch")
    return worst
