"""What can be set about a training run, with its units; the config's schema is made of these."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imtok.schedules import Schedule, WarmupCosine, drops
from imtok.training.flags import check_flags


@dataclass
class TrainerSettings:
    """Length, hardware and cadence of a run. One step is one optimiser step on one global batch.

    Attributes:
        max_steps: Steps of the whole run; schedules end there.
        stop_at: Stop after this step and leave the rest to ``ckpt=last``; None = go on to ``max_steps``.
        batch_size: Images per step, over all devices and micro-batches.
        accumulate: Micro-batches per step and device.
        micro_batch: Images per micro-batch and device, in place of ``accumulate``, which then follows from the number
            of devices; None = ``accumulate`` says it.
        clip: Largest norm of the gradient; None = do not clip.
        precision: ``fp32``, ``bf16`` (autocast), or ``auto``: bf16 on a GPU that has it, else fp32. What it was is
            stored.
        tf32: ``high`` = a GPU multiplies float32 in TF32 where a net computes in it; None = it does not. Quantizers,
            entropies, comparisons of losses and evaluations never use TF32.
        deterministic: Use only operations that give the same bits each time on a GPU, so that going on is bitwise
            there, too; an operation that has none ends the run with its name. A CPU is always so.
        accelerator: Lightning's: ``auto``, ``cpu``, ``gpu``.
        devices: Lightning's: a number or ``auto``.
        num_nodes: Machines.
        strategy: ``auto`` (one process), ``ddp`` (weights whole on every device), ``fsdp`` (in shards), or any other
            of Lightning's that leaves the weights whole.
        fsdp_replicas: Whole sets of shards under ``fsdp``: 1 = weights are spread over all devices; the number of
            machines = each machine holds a set, and only gradients travel between machines (HSDP).
        threads: CPU threads for torch; None = torch's choice.
        compile: Compile encoder, quantizer, decoder, critics and losses; ``auto`` = on a GPU. Where there is no
            compiler the run says so, and nothing is compiled.
        workers: Data loading processes per device; 0 = load in the training process, ``auto`` = one less than the
            processor's cores per device, from 1 to 16.
        skip_nonfinite: Steps in a row that may be skipped because of NaN or infinity; one more stops the run.
        log_every: Steps between rows of ``metrics.csv``.
        save_every: Steps between checkpoints.
        save_async: Write checkpoints beside the steps that follow, so that training waits for a copy of its state in
            main memory alone; ``auto`` = on a GPU.
        keep: Checkpoints kept.
        pictures_every: Steps between pictures of reconstructions; 0 = none.
        evaluate_every: Steps between evaluations of the averaged weights into ``evaluation.csv``; 0 = none.
        evaluate_images: How many held-out images that is over, always the same ones.
        best: The metric whose best tokenizer stays in ``best/``, as ``evaluation.csv`` calls it; None = none does.
        lightning: Flags of Lightning's Trainer by name, those that imtok does not decide itself; None = none.
    """

    max_steps: int = 1000
    stop_at: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    micro_batch: int | None = None
    clip: float | None = 1.0
    precision: str = "fp32"
    tf32: str | None = None
    deterministic: bool = False
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    fsdp_replicas: int = 1
    threads: int | None = None
    compile: Any = "auto"
    workers: Any = 0
    skip_nonfinite: int = 3
    log_every: int = 50
    save_every: int = 500
    save_async: Any = "auto"
    keep: int = 2
    pictures_every: int = 500
    evaluate_every: int = 0
    evaluate_images: int = 256
    best: str | None = None
    lightning: Any = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = []
        least_one = ("max_steps", "stop_at", "batch_size", "accumulate", "micro_batch", "num_nodes", "threads")
        for name in (*least_one, "fsdp_replicas", "log_every", "save_every", "keep", "evaluate_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"trainer.{name} must be at least 1, got {value}")
        if self.workers != "auto" and (not isinstance(self.workers, int) or self.workers < 0):
            problems.append(f"trainer.workers must be auto or a number of at least 0, got {self.workers}")
        for name in ("skip_nonfinite", "pictures_every", "evaluate_every"):
            if getattr(self, name) < 0:
                problems.append(f"trainer.{name} must not be negative, got {getattr(self, name)}")
        accelerators = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
        if self.accelerator not in accelerators:
            problems.append(f"trainer.accelerator must be one of {', '.join(accelerators)}, got {self.accelerator}")
        known = self.devices if isinstance(self.devices, list) else [self.devices]
        numbers = [str(device) for device in known if str(device).isdecimal()]
        if str(self.devices) not in ("auto", "-1", "[]") and (len(numbers) < len(known) or self.devices in (0, "0")):
            problems.append(
                f"trainer.devices must be auto, a number of at least 1, -1 (all) or a list of GPUs, got {self.devices}"
            )
        if self.clip is not None and self.clip <= 0:
            problems.append(f"trainer.clip must be positive or null, got {self.clip}")
        if self.precision not in ("fp32", "bf16", "auto"):
            reason = "; fp16 loses codes and overflows in losses: use bf16" if "16" in self.precision else ""
            problems.append(f"trainer.precision must be fp32, bf16 or auto, got {self.precision}{reason}")
        if self.tf32 not in (None, "high"):
            problems.append(f"trainer.tf32 must be high or null, got {self.tf32}")
        if self.compile not in ("auto", True, False):
            problems.append(f"trainer.compile must be auto, true or false, got {self.compile}")
        if self.save_async not in ("auto", True, False):
            problems.append(f"trainer.save_async must be auto, true or false, got {self.save_async}")
        if self.fsdp_replicas > 1 and self.strategy != "fsdp":
            problems.append(f"trainer.fsdp_replicas={self.fsdp_replicas} is for trainer=fsdp; leave it out")
        problems += check_flags(self.lightning)
        if self.best is not None and not self.evaluate_every:
            problems.append(f"trainer.evaluate_every must be positive for trainer.best={self.best}, got 0")
        if self.micro_batch is not None and self.accumulate != 1:
            problems.append(
                f"trainer.accumulate must be 1 where trainer.micro_batch says how a batch is cut, got {self.accumulate}"
            )
        if self.accumulate >= 1 and self.batch_size % self.accumulate:
            problems.append(
                f"trainer.batch_size must be a multiple of trainer.accumulate={self.accumulate}, got {self.batch_size}"
            )
        return problems


@dataclass
class NetSettings:
    """What differs in the optimiser of a net of the objective, such as a critic.

    Its learning rate follows the tokenizer's schedule, or one of its own.

    Attributes:
        _target_: Class of its optimiser; None = the tokenizer's, with the same arguments.
        lr: Peak learning rate; None = the tokenizer's.
        betas: Decay of the running means; None = the tokenizer's.
        weight_decay: On matrices and kernels only; None = the tokenizer's.
        warmup_steps: Steps of a linear warm-up of its own. Given, even as 0, the net's schedule begins when the net
            does (a critic at the objective's ``critic_start``), and ends with the run; None = it is the tokenizer's
            schedule, wherever that is by then.
        final_lr: Learning rate at the last step, as a fraction of the net's peak; None = the tokenizer's fraction.
        clip: Largest norm of its gradient; None = ``trainer.clip``.
        beside: What trains the parameters that are no matrices of linear layers; None = the tokenizer's.
        arguments: All other keys of the section: arguments of the class.
    """

    _target_: str | None = None
    lr: float | None = None
    betas: list[float] | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    final_lr: float | None = None
    clip: float | None = None
    beside: dict[str, Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


def net_key(name: str) -> str:
    """Where the config says what differs in the optimiser of a net of the objective."""
    return "optimizer.critic" if name == "critic" else f"optimizer.nets.{name}"


@dataclass
class OptimizerSettings:
    """An optimiser, its rates, and which parameters it trains in which way.

    Attributes:
        _target_: Class of the optimiser, any of torch's or of your own.
        lr: Peak learning rate.
        betas: Decay of the running means of gradient and squared gradient; None = the class's own.
        weight_decay: On matrices and kernels only: never on norms, biases, embeddings, tokens, positions and codebooks.
        warmup_steps: Steps of the linear warm-up.
        final_lr: Learning rate at the last step, as a fraction of the peak.
        drop_at: Steps of the run, ascending, from each of which on the learning rates of tokenizer and critic are
            ``drop_by`` times what they would be; None = none.
        drop_by: What is left at each of these steps, in (0, 1).
        layer_decay: Each block of the encoder learns at this fraction, in (0, 1), of the rate of the block after it
            (arXiv 2106.08254); None = all at one rate.
        beside: The optimiser of all parameters that are no matrices of linear layers, a dict with ``_target_`` and
            arguments; None = one optimiser trains them all.
        critic: What differs for the critic, where the objective has one.
        nets: What differs for its other nets, by name.
        arguments: All other keys of the section: arguments of the class.
    """

    _target_: str = "torch.optim.AdamW"
    lr: float = 1e-4
    betas: list[float] | None = None
    weight_decay: float = 0.0
    warmup_steps: int = 100
    final_lr: float = 0.0
    drop_at: list[int] | None = None
    drop_by: float = 0.1
    layer_decay: float | None = None
    beside: dict[str, Any] | None = None
    critic: NetSettings = field(default_factory=NetSettings)
    nets: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def of_net(self, name: str) -> NetSettings:
        """What differs for a net of the objective."""
        return self.critic if name == "critic" else self.nets.get(name, NetSettings())

    def for_net(self, name: str) -> "OptimizerSettings":
        """The settings of a net of the objective, with nothing left to fill in."""
        given = self.of_net(name)
        own = {name: value for name, value in vars(given).items() if value is not None and name != "clip"}
        begun = replace(self, layer_decay=None, critic=NetSettings(), nets={})
        if own.get("_target_", self._target_) != self._target_:  # another class has arguments of its own
            begun = replace(begun, betas=None, beside=None, arguments={})
        return replace(begun, **{**own, "arguments": begun.arguments | given.arguments})

    def rate(self, step: int, max_steps: int, start: int = 0, schedule: Schedule | None = None) -> float:
        """The learning rate at a step of a schedule that begins at the step ``start``, a function of these alone.

        Args:
            step: Of the run.
            max_steps: Of the run, at which the schedule ends.
            start: Its first step.
            schedule: None = warm-up, then half a cosine.

        Example:
            >>> settings = OptimizerSettings(lr=1.0, warmup_steps=2, final_lr=1.0, drop_at=[4])
            >>> [settings.rate(step, max_steps=6) for step in range(6)]
            [0.5, 1.0, 1.0, 1.0, 0.1, 0.1]
            >>> [settings.rate(step, max_steps=6, start=2) for step in range(2, 6)]
            [0.5, 1.0, 0.1, 0.1]
        """
        schedule = schedule or WarmupCosine(self.warmup_steps, self.final_lr)
        rate = schedule(max(step - start, 0), max_steps - start, self.lr)
        return rate * drops(step, self.drop_at or (), self.drop_by)

    def net_rate(self, name: str, step: int, max_steps: int, start: int, schedule: Schedule | None = None) -> float:
        """The learning rate of a net of the objective, which begins to learn at the step ``start``."""
        begins = 0 if self.of_net(name).warmup_steps is None else start
        return self.for_net(name).rate(step, max_steps, begins, schedule)

    def check(self, max_steps: int | None = None) -> list[str]:
        """What is out of range, one line each.

        Args:
            max_steps: Of the run, which all drops have to precede; None = not known.
        """
        problems = []
        for name in ("critic", *self.nets):
            given, key = self.of_net(name), net_key(name)
            if given != NetSettings():
                apart = replace(self.for_net(name), drop_at=None, drop_by=0.1)  # drops are of all: they are named once
                problems += [line.replace("optimizer.", f"{key}.", 1) for line in apart.check()]
            if given.clip is not None and given.clip <= 0:
                problems.append(f"{key}.clip must be positive or null, got {given.clip}")
        if self.lr <= 0:
            problems.append(f"optimizer.lr must be positive, got {self.lr}")
        if self.betas is not None and (len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas)):
            problems.append(f"optimizer.betas must be two numbers in [0, 1), got {list(self.betas)}")
        if self.weight_decay < 0 or self.warmup_steps < 0 or not 0 <= self.final_lr <= 1:
            problems.append(
                "optimizer.weight_decay and warmup_steps must not be negative and final_lr must be in [0, 1], "
                f"got {self.weight_decay}, {self.warmup_steps} and {self.final_lr}"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay < 1:
            problems.append(f"optimizer.layer_decay must be in (0, 1) or null, got {self.layer_decay}")
        if not 0 < self.drop_by < 1:
            problems.append(f"optimizer.drop_by must be in (0, 1), what is left of the rate, got {self.drop_by}")
        steps = list(self.drop_at or ())
        if sorted(set(steps)) != steps or min(steps, default=1) < 1:
            problems.append(f"optimizer.drop_at must be steps above 0 in ascending order, got {steps}")
        elif max_steps is not None and steps and steps[-1] >= max_steps:
            problems.append(
                f"optimizer.drop_at must be steps before trainer.max_steps={max_steps}, got {steps}; scale them with "
                "the run or give optimizer.drop_at=null (trainer.stop_at ends a run early with its schedule as it is)"
            )
        return problems


@dataclass
class EMASettings:
    """Running average of the weights, which is what evaluation and export use.

    Attributes:
        decay: Per step, reached by a ramp ``(1 + updates) / (10 + updates)``; 0 = no averaging.
    """

    decay: float = 0.999

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        return [] if 0 <= self.decay < 1 else [f"ema.decay must be in [0, 1), got {self.decay}"]


@dataclass(frozen=True)
class InitFrom:
    """Whose weights a run starts from.

    Attributes:
        path: A run folder or a tokenizer folder.
        parts: Names of the parts whose weights are taken ("encoder", "decoder.trunk"); () = all are.

    Example:
        >>> InitFrom.read({"path": "runs/mine", "parts": ["encoder"]}), InitFrom.read("runs/mine").takes("quantizer")
        (InitFrom(path='runs/mine', parts=('encoder',)), True)
    """

    path: str
    parts: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: Any, before: str | None = None) -> "InitFrom | None":
        """What ``init_from`` of a config means: a path, or ``path`` and ``parts``; None = nothing.

        Args:
            value: Of the config.
            before: The stage before this run, whose weights are taken where the config names no path.

        Raises:
            ValueError: If it is neither.
        """
        if value is None:
            return None if before is None else cls(before)
        if not isinstance(value, Mapping):
            return cls(str(value))
        unread, parts = value.keys() - {"path", "parts"}, value.get("parts") or ()
        if unread:
            raise ValueError(f"init_from.{min(unread)}: nothing reads it; there are init_from.path and init_from.parts")
        if not (path := value.get("path") or before):
            raise ValueError(
                "init_from.parts needs the tokenizer whose parts they are; give init_from.path=RUN as well"
            )
        return cls(str(path), (parts,) if isinstance(parts, str) else tuple(map(str, parts)))

    def takes(self, part: str) -> bool:
        """Whether the weights of a part are taken, all of them."""
        return not self.parts or is_inside(part, self.parts)


def is_inside(name: str, parts: Iterable[str]) -> bool:
    """Whether a weight or a part is one of these parts, or of one of them."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)
