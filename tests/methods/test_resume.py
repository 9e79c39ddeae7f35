"""Methods and objectives with a memory of their own: killed in the middle of an epoch, they end with the same numbers."""

import pytest
import torch

from karst_bench.adapt.noise import add_noise
from karst_bench.config.compose import settings_of
from karst_bench.engine.callbacks import Callbacks
from karst_bench.engine.objective import Consistency, PaceSettings
from karst_bench.engine.outcome import Interrupted
from karst_bench.engine.streams import Streams
from karst_bench.engine.train import fit


class Twelve:
    """Twelve images in batches of five, shuffled as every split is."""

    def __init__(self):
        self.x, self.y = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.arange(12) % 5

    def __len__(self):
        return 3

    def epoch(self, generator, skip=0):
        order = torch.randperm(12, generator=generator)
        for start in range(5 * skip, 12, 5):
            yield self.x[order[start : start + 5]], self.y[order[start : start + 5]]


class Stop(Callbacks):
    def __init__(self, after):
        self.after, self.steps = after, 0

    def on_step(self, epoch, step, means):
        self.steps = step

    def should_stop(self):
        return self.steps == self.after


WORDS = {
    "snella": ("method=snella", "method.r=4", "method.rho=0.9"),
    "snell": ("method=snell", "method.r=4"),
    "lst": ("method=lst",),
    "sparse_tuning": ("method=sparse_tuning", "method.keep=0.7"),
    "pace": ("method=lora", "regularizer=pace"),
    "pace, fast": ("method=lora", "regularizer=pace", "regularizer.mode=fast"),
}


@pytest.mark.parametrize("name", WORDS)
def test_killed_in_the_middle_it_ends_the_same(attached, name):
    words = WORDS[name]
    settings = settings_of([*words, "recipe=mini", "recipe.epochs=3", "recipe.batch=5"])
    pace = PaceSettings.of(settings.regularizer)

    def run(state=None, stop=0):
        case, objective = attached("vit", *words, shallow=True), None
        if pace is not None:
            noise = add_noise(case.net, pace.sigma)
            objective = Consistency(settings.recipe, "fp32", pace, noise.head, torch.zeros(12, 5))
        done = fit(case.net, case.methods, Twelve(), recipe=settings.recipe, precision="fp32", device=torch.device("cpu"),
                   streams=Streams(0), state=state, callbacks=Stop(stop), objective=objective)  # fmt: skip
        return done.curves["train_loss"], {key: p.detach().clone() for key, p in case.model.trained().items()}

    losses, weights = run()
    with pytest.raises(Interrupted) as killed:
        run(stop=5)
    again, theirs = run(state=killed.value.state)
    assert again == losses and all(torch.equal(p, theirs[key]) for key, p in weights.items())
