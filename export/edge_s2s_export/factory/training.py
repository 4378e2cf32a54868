"""One loop that trains: from nothing, on a task, or after a teacher.

A step is a pure function of the step before, its number and the seed. So a run that was killed goes on from
its last checkpoint to the same weights, and n processes (`accelerate launch` or `torchrun`) do what one does
with n times the `accumulation`.
"""

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from . import fake_int8
from .examples import Batch, Stream
from .losses import Distillation, distillation_loss, label_loss, run
from .optimizers import Optimizers, adamw, muon

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. Rates are those after the warm-up; the last steps go down to a hundredth in a line."""

    steps: int
    learning_rate: float = 5e-3
    muon_learning_rate: float = 2e-3
    optimizer: Literal["muon", "adamw"] = "muon"
    warmup: float = 0.02  # share of the steps
    hold: float = 0.0  # share of the steps after which the rates begin to fall
    clip_norm: float = 1.0
    dropout: float = 0.0  # of embeddings and of what layers add to them; costs a CPU a tenth of its speed
    label_smoothing: float = 0.0
    accumulation: int = 1  # batches of each process in a step
    average_last: float = 0.1  # share of the steps whose weights are averaged
    dtype: Literal["auto", "bfloat16", "float32"] = (
        "auto"  # of matrix products; auto: bfloat16 where it is fast
    )
    compile: bool = False  # costs minutes for each shape, then saves a third of the time
    seed: int = 0
    log_every: int = 20  # steps
    checkpoint_minutes: float = 5.0


@dataclass(frozen=True)
class Progress:
    """Where a run is. Losses are in nats a label, means since the row before."""

    step: int
    tokens: int  # seen so far, without padding
    loss: float
    valid_loss: float
    wrong_source_loss: float  # on valid targets with the sources of others: far above, if the source is read
    learning_rate: float  # as a share of the full one
    tokens_per_second: float
    seconds: float


def train(
    model: Any,
    stream: Stream,
    options: TrainingOptions,
    folder: Path,
    *,
    valid: Sequence[Batch] = (),
    teacher: Any = None,
    distillation: Distillation | None = None,
    quantization_aware: bool = False,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> None:
    """Trains `model` in place; `folder` keeps the checkpoint, from which the same call goes on, and log.csv.

    `valid` are batches to measure the loss on, with their own sources and with each other's.
    `quantization_aware` trains with int8's rounding, of which nothing stays in the weights. Raises
    ValueError if the loss is no longer a number, which smaller rates avoid.
    """
    run_ = _Run(model, options, folder, teacher, distillation, quantization_aware=quantization_aware)
    run_.resume()
    for step in range(run_.step, options.steps):
        run_.take(step, stream)
        if (step + 1) % options.log_every == 0 or step + 1 == options.steps:
            on_progress(run_.note(valid))
        if run_.checkpoint_is_due():
            run_.checkpoint()
    run_.checkpoint()
    run_.finish()


class _Run:
    def __init__(
        self,
        model: Any,
        options: TrainingOptions,
        folder: Path,
        teacher: Any,
        distillation: Distillation | None,
        *,
        quantization_aware: bool,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.options, self.folder = options, folder
        self.distillation = distillation if teacher is not None else None
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        device = self.accelerator.device
        _set_dropout(model, options.dropout)
        self.model = model.to(device)
        self._end_rounding = fake_int8.attach(model) if quantization_aware else lambda: None
        self.optimizers = _optimizers(model, options)
        wrapped = self.accelerator.prepare(model)
        self.forward = torch.compile(wrapped, dynamic=False) if options.compile else wrapped
        self.teacher = (
            None if teacher is None else teacher.to(device).eval().requires_grad_(requires_grad=False)
        )
        self.average: list[torch.Tensor] = []
        self.step = self.tokens = self.n_averaged = 0
        self.seconds = 0.0
        self._losses: list[float] = []
        self._since = self._saved = time.perf_counter()
        self._tokens_noted = 0

    # One step

    def take(self, step: int, stream: Stream) -> None:
        options, accelerator = self.options, self.accelerator
        torch.manual_seed(
            options.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index
        )
        batches = [_to(batch, accelerator.device) for batch in self._batches(step, stream)]
        counts = torch.tensor([[batch.n_labels, batch.n_tokens] for batch in batches], dtype=torch.float64)
        n_labels, n_tokens = accelerator.reduce(counts.sum(0).to(accelerator.device), "sum").tolist()
        self.model.train()
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            with nullcontext() if last else accelerator.no_sync(self.forward):
                loss = self._loss(step, batch) / n_labels
                accelerator.backward(loss * accelerator.num_processes)  # processes are averaged
            total += loss.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), options.clip_norm)
        self.optimizers.step(learning_rate(step, options))
        self._losses.append(float(accelerator.reduce(total, "sum")))
        if self._losses[-1] != self._losses[-1]:
            raise ValueError(
                f"step {step}: expected a loss, found {self._losses[-1]}; try a lower learning_rate"
            )
        self.step, self.tokens = step + 1, self.tokens + int(n_tokens)
        if step >= options.steps * (1 - options.average_last):
            self._add_to_average()

    def _batches(self, step: int, stream: Stream) -> Iterator[Batch]:
        n, rank = self.accelerator.num_processes, self.accelerator.process_index
        first = step * n * self.options.accumulation
        for number in range(self.options.accumulation):
            batch = stream(first + number * n + rank)
            yield batch if self.options.compile else batch.trimmed()

    def _loss(self, step: int, batch: Batch) -> torch.Tensor:
        """Summed over labels."""
        with self._autocast():
            if self.distillation is None:
                output = run(self.forward, batch)
                return label_loss(output.logits, batch.labels, self.options.label_smoothing)
            own = self._writes_itself(step)
            if own:
                batch = on_policy(self.model, batch)
            output = run(self.forward, batch)
            with torch.no_grad():
                theirs = run(self.teacher, batch)
            loss = distillation_loss(output, theirs, batch, self.distillation)
            if own:
                return loss
            labels = label_loss(output.logits, batch.labels, self.options.label_smoothing)
            return loss + self.distillation.label_weight * labels

    def _writes_itself(self, step: int) -> bool:
        """Spread evenly over the steps."""
        assert self.distillation is not None
        share = self.distillation.on_policy_share
        return int((step + 1) * share) > int(step * share)

    def _autocast(self) -> AbstractContextManager[Any]:
        bf16 = self.options.dtype == "bfloat16" or (self.options.dtype == "auto" and has_fast_bfloat16())
        kind = self.accelerator.device.type
        return torch.autocast(kind, torch.bfloat16) if bf16 else nullcontext()

    def _add_to_average(self) -> None:
        weights = [weight.detach() for weight in self.model.parameters()]
        if not self.average:
            self.average = [weight.clone() for weight in weights]
        self.n_averaged += 1
        torch._foreach_lerp_(self.average, weights, 1 / self.n_averaged)

    # Telling

    @torch.no_grad()
    def note(self, valid: Sequence[Batch]) -> Progress:
        now = time.perf_counter()
        seconds, tokens = now - self._since, self.tokens - self._tokens_noted
        self.seconds += seconds
        progress = Progress(
            step=self.step,
            tokens=self.tokens,
            loss=sum(self._losses) / len(self._losses),
            valid_loss=self._measure(valid, shift=0),
            wrong_source_loss=self._measure(valid, shift=1),
            learning_rate=learning_rate(self.step - 1, self.options),
            tokens_per_second=tokens / seconds,
            seconds=self.seconds,
        )
        self._losses, self._since, self._tokens_noted = [], time.perf_counter(), self.tokens
        if self.accelerator.is_main_process:
            _append(self.folder / LOG, progress)
        return progress

    def _measure(self, batches: Sequence[Batch], *, shift: int) -> float:
        """Loss in nats a label; with `shift`, each row has the source of its neighbour."""
        self.model.eval()
        total, n_labels = 0.0, 0
        for batch in (_to(batch, self.accelerator.device) for batch in batches):
            moved = Batch(batch.input_ids.roll(shift, 0), batch.attention_mask.roll(shift, 0), batch.labels)
            with self._autocast():
                total += float(label_loss(run(self.model, moved).logits, moved.labels))
            n_labels += batch.n_labels
        return total / n_labels if n_labels else float("nan")

    # Keeping

    def checkpoint_is_due(self) -> bool:
        return time.perf_counter() - self._saved > self.options.checkpoint_minutes * 60

    def checkpoint(self) -> None:
        self._saved = time.perf_counter()
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average,
            "progress": [self.step, self.tokens, self.n_averaged, self.seconds],
            "losses": self._losses,
        }
        unfinished = self.folder / (CHECKPOINT + ".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.folder / CHECKPOINT)

    def resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.average = state["average"]
        self.step, self.tokens, self.n_averaged, self.seconds = state["progress"]
        self._losses, self._tokens_noted = state["losses"], self.tokens
        _drop_rows_after(self.folder / LOG, self.step)

    def finish(self) -> None:
        """The model gets the average of its last weights."""
        with torch.no_grad():
            for weight, mean in zip(self.model.parameters(), self.average, strict=bool(self.average)):
                weight.copy_(mean)
        self._end_rounding()
        self.model.eval()
        self.accelerator.wait_for_everyone()


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Of a step, as a share of the full one: up, level, and down to a hundredth, in lines."""
    warmup = max(1, round(options.warmup * options.steps))
    falling = options.steps - max(warmup, round(options.hold * options.steps))
    left = (options.steps - step) / max(falling, 1)
    return min((step + 1) / warmup, 1.0, max(left, 0.01))


def has_fast_bfloat16() -> bool:
    """Whether the device multiplies matrices in bfloat16 faster than in float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


@torch.no_grad()
def on_policy(model: Any, batch: Batch) -> Batch:
    """The batch with targets that the model writes itself, drawn at temperature 1
    (https://arxiv.org/abs/2306.13649)."""
    model.eval()
    drawn = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        do_sample=True,
        top_k=0,
        max_new_tokens=batch.labels.shape[1],
        min_new_tokens=1,
    )[:, 1:]
    model.train()
    labels = torch.full_like(batch.labels, -100)
    labels[:, : drawn.shape[1]] = drawn.masked_fill(drawn == 0, -100)
    return Batch(batch.input_ids, batch.attention_mask, labels)


def _optimizers(model: Any, options: TrainingOptions) -> Optimizers:
    if options.optimizer == "adamw":
        return adamw(model, learning_rate=options.learning_rate)
    return muon(model, learning_rate=options.learning_rate, muon_learning_rate=options.muon_learning_rate)


def _set_dropout(model: Any, rate: float) -> None:
    """Of embeddings and of what layers add to them. Inside attention and feed-forward layers nothing is
    dropped: a CPU spends more than half of a step on the random numbers for it.
    """
    for name, module in model.named_modules():
        inside = "DenseReluDense" in name or type(module).__name__.endswith("Attention")
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0 if inside else rate
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0 if inside else rate


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.input_ids.to(device), batch.attention_mask.to(device), batch.labels.to(device))


def _append(path: Path, progress: Progress) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        fields = vars(progress)
        if is_new:
            rows.writerow(fields)
        rows.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in fields.values()])


def _drop_rows_after(path: Path, step: int) -> None:
    """Those that a killed run wrote behind its last checkpoint."""
    if not path.exists():
        return
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if int(row.split(",")[0]) <= step]
    path.write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
