"""An adapter folder to the Hugging Face hub, through its own client."""

import logging
from pathlib import Path

from karst_bench.adapt.adapter_file import IN_FOLDER, read_adapter_header
from karst_bench.errors import UserError

log = logging.getLogger(__name__)
FILES = (IN_FOLDER, "adapter.json", "README.md")


def push_folder(folder: Path, repo: str, *, private: bool, token: str | None = None, endpoint: str | None = None) -> str:
    """Uploads the three files of an adapter folder as one commit to `owner/name`, made where it is missing; returns its address.

    token, endpoint: those of huggingface_hub's own settings where not given. Raises: UserError where the folder is none, the
    client is missing, or the hub refuses.
    """
    read_adapter_header(folder)
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("push_to_hub needs huggingface_hub: pip install huggingface_hub") from error
    api = HfApi(endpoint=endpoint, token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(FILES), commit_message=f"Adapter of karst_bench: {folder.name}"
        )
    except Exception as error:  # the client's own, and those of the HTTP library that its version uses
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{repo}: the hub refused ({reason}); see `hf auth login`, the name owner/name, and the connection"
        ) from error
    log.info("%s is at %s", folder, made)
    return str(made)
