"""Bad values in YAML, bad flags, and arguments of a Trainer to corrupt, one per line or word."""

from tests.fuzz.cases import MARK

# the text of a value, in a file or after the `=` of a flag
VALUES = (
    r"""
null
''
' '
abc
true
0
-1
0.5
1.5
-0.0
1e-320
1e999
-1e999
.nan
.inf
-.inf
1e30
99999999999999999999999999
-99999999999999999999999999
0x1F
1_000
2026-01-01
'0.5'
[]
[0.5]
[[]]
[null]
[abc, abc]
{}
{a: 1}
{'': {}}
{1: 2}
{null: null}
{a: {b: [{}]}}
GradDrop
Linear
Chain
Schedule
GradientTransform
LightningModule
os.system
builtins.eval
not.a.module
lightning_sparsegrad.
.GradDrop
a b
a/b.yaml
other.yaml
-
--help
*
[
\x00
"\0"
"\U0001F600"
{class_path: GradDrop}
{class_path: GradDrop, init_args: {rate: 0.5}}
{class_path: [GradDrop]}
{class_path: {}}
{class_path: null}
{class_path: 3}
{class_path: ''}
{class_path: GradDrop, init_args: []}
{class_path: GradDrop, init_args: abc}
{class_path: GradDrop, x: 1}
{class_path: GradDrop, init_args: {rate: 0.5}, dict_kwargs: {x: 1}}
{class_path: GradDrop, init_args: {rat: 0.5}}
{class_path: Identity}
{init_args: {}}
{init_args: {rate: 0.1}}
[{class_path: GradDrop, init_args: {rate: 0.5}}]
{class_path: Linear, init_args: {start: 2, end: -1}}
{class_path: Linear}
{class_path: TopDown}
{class_path: Constant, init_args: {value: .nan}}
{class_path: torch.nn.Linear, init_args: {in_features: 1, out_features: 1}}
{class_path: os.system, init_args: {command: touch MARK}}
{class_path: subprocess.Popen, init_args: {args: [touch, MARK]}}
!!python/object/apply:os.system ['touch MARK']
!!binary aGk=
!!set {a, b}
!!timestamp 2026-01-01
!foo bar
""".replace("MARK", MARK)
    .strip("\n")
    .split("\n")
)

# whole command lines
FLAGS = [
    line.split()
    for line in """

--help-me
fti
fit fit
fit validate
fit --
fit -
fit ---
fit --=
fit --config
fit --config=
fit --config=not_there.yaml
fit --config=.
fit --config=/
fit --config=bytes.yaml
fit --config=empty.yaml
fit --config=null.yaml
fit --config=list.yaml
fit --config={}
fit --config=[]
fit --config=3
fit --config=-
fit --config=http://localhost:9/a.yaml
--config=task.yaml fit
--config=nested.yaml
--config=nested.yaml fit
--config=bytes.yaml fit
fit task.yaml
validate
fit
predict
test --config=task.yaml
fit --model.help=abc
fit --model.help=os.system
""".removeprefix("\n")
    .removesuffix("\n")
    .split("\n")
]

# what may follow a good config
TASK_FLAGS = [
    line.split()
    for line in """
task.yaml
--config
--print_config=abc
--print_config=skip_null
--model
--model=
--model.help
--data=TextDataModule --data=os.system
--model.gradient_transform+=GradDrop
--trainer.callbacks+=
--trainer.callbacks+=os.system
--trainer.callbacks+=[GradDrop]
--trainer
--trainer=abc
--trainer={}
--trainer=[1]
--trainer.=1
--.x=1
--model.gradient_transform.transforms.maks.rate=0.6
--model.gradient_transform.transforms.mask.rat=0.6
--model.gradient_transform.transforms.=0.6
--model.gradient_transform.transforms=3
--model.gradient_transform.transforms.mask=3
--model.gradient_transform.rate=0.5
--model.init_args.lr=1
--model.class_path=GradDrop
--optimizer=SGD
--lr_scheduler=StepLR
\udcff
--model.optimizer=os.system
--model.optimizer=builtins.eval
--model.lr_scheduler=builtins.print
--weights_only=false
""".strip().split("\n")
]

CHECKPOINTS = [
    "", "a\0b", "not_there.ckpt", ".", "folder", "bytes.yaml", "empty.yaml", "task.yaml", "best", "last", "hpc",
    "none", "-", "/", "file://not_there", "s3://not/there", "http://localhost:9/a.ckpt", "registry:a", "list.ckpt",
    "number.ckpt", "half.ckpt", "other.ckpt", "keys.ckpt",
]  # fmt: skip

# not `devices` and `num_nodes`: large ones would start as many processes
TRAINER = [
    "accelerator", "precision", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time",
    "limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval", "check_val_every_n_epoch",
    "num_sanity_val_steps", "log_every_n_steps", "accumulate_grad_batches", "gradient_clip_val",
    "gradient_clip_algorithm", "deterministic", "benchmark", "inference_mode", "use_distributed_sampler",
    "profiler", "detect_anomaly", "barebones", "plugins", "sync_batchnorm", "reload_dataloaders_every_n_epochs",
    "default_root_dir", "callbacks", "logger", "fast_dev_run", "enable_checkpointing",
]  # fmt: skip
SPOILT_DEVICES = ["abc", "-2", "[]", "[0,0]", "0", "{}", "1.5", "''"]

# values of arguments: too small, too large, of another type, names that are others'
ARGUMENTS = [
    "null", "''", "true", "-1", "0", "1", "2", "3", "0.5", "1.5", ".nan", ".inf", "1e400", "1000000000000",
    "4294967296", "99999999999999999999999999", "9" * 5000, "abc", "[]", "{}", "[text, text]", "[text, label]", "text",
    "label", "rows.csv", "{train: rows.csv}", "{train: [rows.csv, rows.csv]}", "{1: rows.csv}", "{train: null}",
    "{train: train}", "[a]", "[a, a]", "[a, b]", "[1, 2, 3]", "[null]", '"a\\0b"', "/", ".", "regression", "step",
    "accuracy", "[accuracy, accuracy]", "skip", "float16", "~", "'*'", "'**/*'", "hf://a/b", "s3://a/b",
]  # fmt: skip
