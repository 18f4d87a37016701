"""The task for texts: training, metrics, and stored arguments."""

from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader

from lightning_sparsegrad import (
    ConfigurationError,
    GradDrop,
    GradientEngine,
    GradientTransform,
    HeadOnly,
    Identity,
    SequenceClassification,
)
from lightning_sparsegrad.modules import LinearDecay
from tests.cases import cases

from ..tiny import VOCABULARY, tiny_bert, tiny_gpt2_classifier, tiny_whisper
from .tasks import SEED, assert_same_weights, trainer, weights

CLASSES = 3
TRAIN_SIZES, EVALUATION_SIZES = (4, 4, 4, 2), (4, 5, 1)

Batch = dict[str, Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save pretrained models: a headed one of each kind, without dropout, and one that has no head for texts."""
    root = tmp_path_factory.mktemp("models")
    still = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    models = {
        "classes": tiny_bert(num_labels=CLASSES, **still),
        "number": tiny_bert(num_labels=1, **still),
        "dropout": tiny_bert(num_labels=CLASSES, num_hidden_layers=2),
        "gpt2": tiny_gpt2_classifier(num_labels=CLASSES, pad_token_id=None, n_layer=1),
        "speech": tiny_whisper(),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)  # type: ignore[operator]
    return root


def batches(kind: str, sizes: tuple[int, ...] = TRAIN_SIZES, *, seed: int = 0) -> list[Batch]:
    """Return batches of random tokens, each padded to a length of its own."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for size, length in zip(sizes, count(5)):
        ids = torch.randint(3, VOCABULARY, (size, length), generator=generator)
        mask = (torch.arange(length) < torch.randint(2, length + 1, (size, 1), generator=generator)).long()
        labels = torch.randint(0, CLASSES, (size,), generator=generator)
        if kind == "number":
            labels = torch.randn(size, generator=generator)
        rows.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return rows


def feed(rows: list[Batch]) -> DataLoader[Any]:
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


def build(
    folder: Path, kind: str, transform: GradientTransform | None = None, **arguments: Any
) -> SequenceClassification:
    labels = 1 if kind == "number" else CLASSES
    return SequenceClassification(str(folder / kind), labels, transform or GradDrop(0.3), **arguments)


@torch.no_grad()
def logits_of(task: SequenceClassification, rows: list[Batch]) -> Tensor:
    task.model.train(mode=False)
    outputs = [task.model(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits for b in rows]
    return torch.cat(outputs)


# ---------------------------------------------------------------- training
@pytest.mark.parametrize("kind", ["classes", "number"])
def test_weights_are_those_of_a_plain_loop(folder: Path, kind: str) -> None:
    def sgd(parameters: Any) -> SGD:
        return SGD(parameters, lr=0.1, weight_decay=0.1)

    task = build(folder, kind, optimizer=sgd)
    trainer(max_epochs=2).fit(task, feed(batches(kind)))
    expected = build(folder, kind, optimizer=sgd)
    engine = GradientEngine(expected, GradDrop(0.3), seed=SEED)
    named = dict(expected.named_parameters())
    for step, batch in enumerate([*batches(kind), *batches(kind)]):
        logits = expected.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        if kind == "number":
            loss = ((logits.squeeze(-1) - batch["labels"]) ** 2).mean()
        else:
            loss = -logits.log_softmax(-1)[torch.arange(len(logits)), batch["labels"]].mean()
        with engine.window(step):
            torch.autograd.backward(loss)
            engine.apply_()
        with torch.no_grad():
            for name, parameter in named.items():
                assert parameter.grad is not None
                decayed = name.endswith("weight") and "LayerNorm" not in name
                parameter.sub_(0.1 * (parameter.grad + (0.1 * parameter if decayed else 0)))
                parameter.grad = None
    torch.testing.assert_close(weights(task), weights(expected), rtol=1e-4, atol=1e-6)


def test_dropout_is_on_in_training_and_off_in_evaluation(folder: Path) -> None:
    task = build(folder, "dropout")
    (batch,) = batches("classes", (4,))
    assert not torch.equal(task(batch).logits, task(batch).logits)
    trainer().fit(task, feed(batches("classes")), feed(batches("classes", EVALUATION_SIZES)))
    assert task.model.training
    first, second = (trainer().predict(task, feed([batch])) for _ in range(2))
    assert torch.equal(first[0]["logits"], second[0]["logits"])  # type: ignore[index, call-overload]


def test_biases_and_norms_do_not_decay(folder: Path) -> None:
    task = build(folder, "classes")
    named = dict(task.named_parameters())
    named["model.bert.pooler.dense.weight"].requires_grad = False
    optimizer: Any = task.configure_optimizers()
    decayed, others = ({id(parameter) for parameter in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    del named["model.bert.pooler.dense.weight"]
    for name, parameter in named.items():
        exempt = name.endswith("bias") or "LayerNorm" in name
        assert (id(parameter) in others) == exempt, name
        assert (id(parameter) in decayed) == (not exempt), name
    assert len(decayed) + len(others) == len(named)


def test_the_head_alone_trains_with_head_only(folder: Path) -> None:
    task = build(folder, "classes", HeadOnly())
    before = weights(task)
    trainer().fit(task, feed(batches("classes")))
    moved = {name for name, weight in weights(task).items() if not torch.equal(weight, before[name])}
    assert moved == {
        f"model.{part}.{kind}" for part in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }


def test_a_decoder_without_a_padding_token_is_trained_in_batches(folder: Path) -> None:
    task = build(folder, "gpt2")
    run = trainer()
    run.fit(task, feed(batches("classes")))
    assert run.global_step == len(TRAIN_SIZES)


# ---------------------------------------------------------------- evaluation
@pytest.mark.parametrize("stage", ["val", "test"])
def test_classification_is_measured(folder: Path, stage: str) -> None:
    task = build(folder, "classes")
    rows = batches("classes", EVALUATION_SIZES, seed=3)
    metrics = measure(task, rows, stage)
    logits, labels = logits_of(task, rows), torch.cat([batch["labels"] for batch in rows])
    predictions = logits.argmax(-1).tolist()
    pairs = list(zip(predictions, labels.tolist(), strict=True))
    assert set(labels.tolist()) == set(range(CLASSES))
    scores = []
    for label in range(CLASSES):
        right = sum(predicted == actual == label for predicted, actual in pairs)
        scores.append(2 * right / (predictions.count(label) + labels.tolist().count(label)))
    losses = -logits.log_softmax(-1)[torch.arange(len(labels)), labels]
    assert metrics == pytest.approx(
        {
            f"{stage}/accuracy": sum(predicted == actual for predicted, actual in pairs) / len(pairs),
            f"{stage}/f1": sum(scores) / CLASSES,
            f"{stage}/loss": float(losses.mean()),
        }
    )


@pytest.mark.parametrize("stage", ["val", "test"])
def test_regression_is_measured(folder: Path, stage: str) -> None:
    task = build(folder, "number")
    rows = batches("number", EVALUATION_SIZES, seed=3)
    metrics = measure(task, rows, stage)
    numbers, labels = logits_of(task, rows).squeeze(-1), torch.cat([batch["labels"] for batch in rows])
    error = float(((numbers - labels) ** 2).mean())
    correlation = float(torch.corrcoef(torch.stack([numbers, labels]))[0, 1])
    expected = {f"{stage}/pearson": correlation, f"{stage}/mse": error, f"{stage}/loss": error}
    assert metrics == pytest.approx(expected, rel=1e-4)


def measure(task: SequenceClassification, rows: list[Batch], stage: str) -> dict[str, float]:
    """Evaluate twice, so that what is left of the first time would show."""
    run = trainer()
    for _ in range(2):
        (metrics,) = (run.validate if stage == "val" else run.test)(task, feed(rows), verbose=False)
    return dict(metrics)


def test_a_fit_logs_loss_metrics_and_shares(folder: Path) -> None:
    run = trainer()
    run.fit(build(folder, "classes"), feed(batches("classes")), feed(batches("classes", EVALUATION_SIZES)))
    expected = {"train/loss", "val/loss", "val/accuracy", "val/f1", "gradient/kept"}
    assert set(run.callback_metrics) == expected


@cases("labelled", [True, False])
@cases("kind", ["classes", "number"])
def test_predictions(folder: Path, kind: str, labelled: bool) -> None:
    task = build(folder, kind)
    rows = batches(kind, EVALUATION_SIZES)
    given = [{name: value for name, value in batch.items() if name != "labels"} for batch in rows]
    for batch, source in zip(given, rows, strict=True):
        if labelled:
            batch["labels"] = torch.full_like(source["labels"], -1)  # how published test sets hide them
    outputs: Any = trainer().predict(task, feed(given))
    logits = torch.cat([output["logits"] for output in outputs])
    predictions = torch.cat([output["predictions"] for output in outputs])
    torch.testing.assert_close(logits, logits_of(task, rows))
    assert torch.equal(predictions, logits.squeeze(-1) if kind == "number" else logits.argmax(-1))
    assert predictions.shape == (sum(EVALUATION_SIZES),)


# ---------------------------------------------------------------- what is stored
def test_hyperparameters_are_no_objects(folder: Path, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    task = build(folder, "classes", lr_scheduler=LinearDecay)
    run = trainer(logger=logger)
    run.fit(task, feed(batches("classes")))
    plain = {"metrics": None, "skip_dropped": True, "nonfinite": "propagate", "dtype": "float32"}
    expected = {"model_name_or_path": str(folder / "classes"), "num_labels": CLASSES, **plain}
    assert dict(task.hparams) == dict(task.hparams_initial) == expected
    assert yaml.safe_load((tmp_path / "hparams.yaml").read_text()) == expected
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"] == expected


def test_a_checkpoint_is_loaded_with_a_transform(folder: Path, tmp_path: Path) -> None:
    task = build(folder, "classes")
    run = trainer()
    run.fit(task, feed(batches("classes")))
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = SequenceClassification.load_from_checkpoint(tmp_path / "last.ckpt", gradient_transform=Identity())
    assert_same_weights(weights(loaded), weights(task))
    assert loaded.num_labels == CLASSES
    assert isinstance(loaded.gradient_transform, Identity)


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize("num_labels", [0, -1])
def test_a_number_of_labels_that_is_none(folder: Path, num_labels: int) -> None:
    with pytest.raises(ConfigurationError, match=f"`num_labels` should be positive. Found `num_labels = {num_labels}`"):
        SequenceClassification(str(folder / "classes"), num_labels, Identity())


@cases("name", ["nowhere", "no such model", "empty", "speech", "classes", "broken"])
def test_a_model_that_cannot_be_loaded(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    path = folder / name if (folder / name).exists() else tmp_path / name
    labels = CLASSES + 2
    with pytest.raises(ConfigurationError, match="`model_name_or_path` should be a reachable hub id") as caught:
        SequenceClassification(str(path), labels, Identity())
    assert f"Found `{path}`: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed() -> None:
    message = "^Package `not-there` should be installed: run `pip install not-there`. Found `package:not-there/model`.$"
    with pytest.raises(ConfigurationError, match=message):
        SequenceClassification("package:not-there/model", 2, Identity())


def test_a_learning_rate_that_is_set_overrides_the_optimizers_and_survives_a_resume(folder: Path, tmp_path: Path):
    def task(lr: float = 0.5) -> SequenceClassification:
        made = SequenceClassification(
            str(folder / "classes"),
            CLASSES,
            Identity(),
            optimizer=partial(SGD, lr=lr),
            lr_scheduler=LinearDecay,
        )
        assert made.lr is None
        return made

    rows = task()
    data: Any = DataLoader(batches("classes"), batch_size=None)  # type: ignore[arg-type]
    rows.lr = 0.01
    run = trainer(max_epochs=1)
    run.fit(rows, data)
    assert [group["initial_lr"] for group in run.optimizers[0].param_groups] == [0.01, 0.01]
    run.save_checkpoint(tmp_path / "found.ckpt")
    stored = torch.load(tmp_path / "found.ckpt", weights_only=True)
    assert "lr" not in stored["hyper_parameters"]
    resumed, again = task(), trainer(max_epochs=2)
    again.fit(resumed, data, ckpt_path=tmp_path / "found.ckpt")
    assert resumed.lr == 0.01
    assert again.optimizers[0].param_groups[0]["initial_lr"] == 0.01
    changed, again = task(lr=0.25), trainer(max_epochs=2)  # what is said anew wins
    again.fit(changed, data, ckpt_path=tmp_path / "found.ckpt")
    assert changed.lr is None
    assert again.lr_scheduler_configs[0].scheduler.base_lrs == [0.25, 0.25]
    weights_alone = SequenceClassification.load_from_checkpoint(tmp_path / "found.ckpt", gradient_transform=Identity())
    assert weights_alone.lr is None  # a new fit has its own


def test_a_search_sets_the_learning_rate_of_optimizer_and_schedule(folder: Path):
    rows = SequenceClassification(
        str(folder / "dropout"),
        CLASSES,
        GradDrop(rate=0.2),
        optimizer=partial(SGD, lr=0.5),
        lr_scheduler=LinearDecay,
    )
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    finder = LearningRateFinder(num_training_steps=15, early_stop_threshold=None)
    data: Any = DataLoader(batches("classes", (4,) * 16), batch_size=None)  # type: ignore[arg-type]
    trainer(max_epochs=1, callbacks=[finder, Rates()]).fit(rows, data)
    assert rows.lr is not None
    assert rows.lr != 0.5
    assert rates == pytest.approx([rows.lr * (16 - step) / 16 for step in range(16)])
