"""Parse the flags of the command line into a dataclass of settings."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import re
from collections.abc import Callable
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from minizone.errors import UserError

Settings = TypeVar("Settings")

GROUPS = {  # of --help; all other settings are in the group of their task
    "run": "preset device seed out resume epochs patience max_minutes load_path test_cost",
    "data": "dataset data_dir offline text valid_text test_text vocabulary_size tokenized ptb_form seq_len augment"
    " train_symbols eval_symbols permutation unpermuted pool train_examples eval_examples",
    "model": "hidden_size num_layers rnn_type activation initialization init_width forget_bias batch_normalization"
    " initial_gamma initial_beta epsilon statistics_batches summarize",
    "regularizer": "z_prob_cells z_prob_states share_mask static_mask stoch_depth gaussian_drop drop_prob_igates"
    " output_gate ogates_zoneout dropout variational_dropout input_drop norm_cost_coeff penalty weight_noise"
    " l2_regularization noise",
    "optimizer": "algorithm learning_rate batch_size lr_decay decrease_lr_after_epoch momentum rms_decay clipping"
    " clip_what",
}


def parse(kind: type[Settings], arguments: list[str], command: str, default: Any = None) -> Settings:
    """Parse arguments into settings of type ``kind``. Fields without a flag have the values of ``default``.

    With ``default``, --help shows the flags in groups. Flags can be written with hyphens or with underscores. The last
    value of a flag counts. Raises UserError, in one sentence, for flags and values that ``kind`` does not have, and for
    an empty --out or --save.
    """
    for word in arguments:
        if problem := unknown_flag(word, kind):
            raise UserError(f"{command}: {problem}; see run.py {command} --help")
    in_help = default is not None and not {"-h", "--help"}.isdisjoint(arguments)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed, unknown = tyro.cli(
                in_groups(kind, command, default) if in_help else kind,
                args=arguments,
                default=tyro.MISSING_NONPROP if default is None or in_help else default,
                prog=f"run.py {command}",
                description=inspect.getdoc(kind),
                use_underscores=False,
                return_unknown_args=True,
                registry=VALUES,
                config=(tyro.conf.PositionalMetavarFromFieldName, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as stop:
        if stop.code == 0:  # after --help
            raise
        raise UserError(f"{command}: {sentence(message.getvalue())}; see run.py {command} --help") from None
    if unknown:  # a word that is not the value of a flag, or a flag that this task hides
        raise UserError(f"{command}: unexpected argument {unknown[0]!r}; see run.py {command} --help")
    for name in ("out", "save"):
        if getattr(parsed, name, None) == "":
            raise UserError(f"{command}: --{name} is empty: give it a name, or leave it out")
    return parsed


def in_groups(kind: type, command: str, default: Any) -> type:
    """For --help: a dataclass with a dataclass for each group of settings. tyro shows each group in a box."""
    hints = get_type_hints(kind, include_extras=True)
    sentences = {
        each.arg_name: " ".join((each.description or "").split())
        for base in reversed(kind.__mro__[:-1])
        for each in docstring_parser.parse_from_object(base).params
    }
    own = [field.name for field in fields(kind) if field.name not in " ".join(GROUPS.values()).split()]
    groups = []
    for group, names in [*((group, names.split()) for group, names in GROUPS.items()), (command, own)]:
        members = []
        for name in (name for name in names if name in hints):
            value = getattr(default, name)
            shown = tyro.conf.arg(help=sentences.get(name), help_behavior_hint="" if value is None else None)
            members.append((name, Annotated[hints[name], shown], value))
        if members:
            made = make_dataclass(group.replace("-", "_"), members, frozen=True)
            groups.append((made.__name__, made, made()))
    return make_dataclass(kind.__name__, groups)


# ---- errors


def sentence(box: str) -> str:
    """The message in tyro's error box, without its title and the help of the flag."""
    _, text, *_ = re.split("[─-]{4,}", re.sub("[│╭╮╰╯]", " ", box))
    text = " ".join(text.split())
    text = re.sub(r"^Missing value for argument '(.+)'\..*", r"\1 needs a value", text)
    text = re.sub(r"^Missing from .*?: (\S+) .*", r"\1 is missing", text)
    return re.sub(r"^Error parsing (.+?): ", r"\1 ", text)


def unknown_flag(word: str, kind: type) -> str | None:
    """The message for a word that looks like a flag but is not one, with the most similar flag; else None."""
    flag = word.partition("=")[0].replace("_", "-")
    negated = [f"no_{field.name}" for field in fields(kind) if field.type == "bool"]
    flags = [name.replace("_", "-") for name in ("help", *(field.name for field in fields(kind)), *negated)]
    if not word.startswith("--") or flag[2:] in flags:
        return None
    nearest = difflib.get_close_matches(flag[2:], flags, n=1)
    return f"there is no flag {flag}" + (f", the nearest is --{nearest[0]}" if nearest else "")


# ---- values

VALUES = ConstructorRegistry()


def value_of(metavar: str, must_be: str, read: Callable[[str], Any]) -> PrimitiveConstructorSpec:
    """How tyro reads and shows a value of one word. ``read`` raises ValueError for a wrong value."""

    def instance_from_str(words: list[str]) -> Any:
        try:
            return read(words[0])
        except ValueError:
            raise ValueError(f"must be {must_be}, got {words[0]}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=instance_from_str,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


@VALUES.primitive_rule
def value_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Numbers, names from a list, and any text ("None" is text, too), also if the default is None."""
    if info.type in (int, int | None):
        return value_of("INT", "a whole number", int)
    if info.type is float:
        return value_of("FLOAT", "a number", float)
    if info.type == str | None:
        return value_of("STR", "text", str)
    if get_origin(info.type) is Literal:
        names = get_args(info.type)
        return value_of(f"{{{','.join(names)}}}", f"one of {', '.join(names)}", lambda word: names[names.index(word)])
    return None


# ---- files


def file_to_write(name: str) -> Path:
    """The path of a file that a command will write. Raises UserError if it is a folder, before any work is done."""
    path = Path(name)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    return path
