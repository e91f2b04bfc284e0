"""Settings as text on a command line: quoted for Hydra's grammar, and for the shell in commands that are printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, unquote

from hairline.system import provenance

# A text in quotes: a quote inside it has a backslash, and so have the backslashes right before a quote.
_IN_QUOTES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
# Functions of Hydra's grammar, which are not taken as text.
_FUNCTION = re.compile(
    r"(choice|range|interval|glob|shuffle|sort|tag|extend_list|str|int|float|bool|json_str)\s*\(.*\)"
)
_PLAIN_NAME = re.compile(r"(?!(?:null|true|false|inf|nan)\Z)[A-Za-z_][\w-]*", re.ASCII | re.IGNORECASE)
_ENCODED = "%@"  # begins an encoded name; no percent-encoding holds it
_OPENING, _CLOSING = "[{(", "]})"


# --- commands to print ------------------------------------------------------------------------------------------------


def override(key: str, value: str | Sequence[str] | Mapping[str, str]) -> str:
    r"""Return `key=value` as a word of a command: it works when pasted into a shell, whatever the value contains.

    Args:
        key: A setting that takes a text, a list of texts, or a mapping of texts.
        value: Its value.

    >>> override("data.path", "site (2)")
    "'data.path=site (2)'"
    >>> override("data.class_map", {"no crack, dry": "intact"})
    '"data.class_map={\'no crack, dry\': intact}"'
    """
    if isinstance(value, str):
        text = quoted(value) if _is_special(value) else value
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{_item(name)}: {_item(item)}' for name, item in value.items())}}}"
    else:
        text = f"[{','.join(map(_item, value))}]"
    return word(f"{key}={text}")


def word(text: str) -> str:
    """Return a text as one word of a shell's command, in the quotes that are easier to read."""
    readable = "'" in text and not set(text) & set('"$`\\!\n')
    return f'"{text}"' if readable else shlex.quote(text)


def command(script: str, *words: str) -> str:
    """Return a command as the user types it: `hairline predict`, or `python predict.py` as the script was started.

    Args:
        script: Name of the script, such as `predict`.
        words: Its arguments, already quoted for the shell, such as from `override`.
    """
    return " ".join((*map(word, provenance.program(script)), *words))


def _is_special(value: str) -> bool:
    """Return whether a text setting would not take this value as it is."""
    return not value or value[0] in "'\"" or "," in value or value == "null" or is_function(value)


def _item(value: str) -> str:
    """Return an item of a list or mapping, in quotes where its characters have a meaning there."""
    return quoted(value) if not value or value != value.strip() or set(value) & set(",:[]{}'\"") else value


# --- texts in Hydra's grammar -----------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """Return a text in quotes, so that Hydra and OmegaConf take every character of it literally."""
    text = escaped(text)
    text = re.sub(r"(\\+)(?='|\Z)", r"\1\1", text)
    return "'" + text.replace("'", "\\'") + "'"


def escaped(text: str) -> str:
    """Return a text in which OmegaConf finds no interpolation: `${x}` stays `${x}`."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def is_quoted(text: str) -> bool:
    """Return whether a value is one text in quotes."""
    return _IN_QUOTES.fullmatch(text) is not None


def is_function(text: str) -> bool:
    """Return whether a value calls a function of Hydra's grammar, such as `choice(a,b)`."""
    return _FUNCTION.fullmatch(text) is not None


def unquoted(text: str) -> str:
    """Return the text that a value means: without the quotes around it, if it has any."""
    if not is_quoted(text):
        return text
    inner = re.sub(r"(\\+)(?=['\"]|\Z)", lambda match: match[1][1::2], text[1:-1])
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][::2] + "${", inner)


def split(text: str, brackets: str = _OPENING) -> list[str]:
    """Split a text at the commas outside quotes and brackets.

    Args:
        text: The text.
        brackets: The opening brackets that count.

    >>> split("a,'b,c',[d,e]")
    ['a', "'b,c'", '[d,e]']
    """
    return list(_parts(text, ",", brackets))


def _parts(text: str, separator: str, brackets: str) -> Iterator[str]:
    closing = {_CLOSING[_OPENING.index(bracket)] for bracket in brackets}
    start = place = depth = 0
    while place < len(text):
        # A quote inside a word, as in "it's", is a character like others.
        in_quotes = _IN_QUOTES.match(text, place) if text[:place].rstrip()[-1:] in ("", *",:[{(=") else None
        if in_quotes:
            place = in_quotes.end()
            continue
        char = text[place]
        depth = max(0, depth + (char in brackets) - (char in closing))
        if char == separator and not depth:
            yield text[start:place]
            start = place + 1
        place += 1
    yield text[start:]


def parse_list(text: str) -> list[str] | None:
    """Return the items of `[a, b]`; None for anything else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    items = [unquoted(item.strip()) for item in split(text[1:-1], "")]
    return [] if items == [""] else items


def parse_mapping(text: str) -> dict[str, str] | None:
    """Return the items of `{name: value, name: value}`; None for anything else."""
    if not (text.startswith("{") and text.endswith("}")):
        return None
    pairs = [list(_parts(item, ":", "")) for item in split(text[1:-1], "") if item.strip()]
    if any(len(pair) < 2 for pair in pairs):
        return None
    return {unquoted(name.strip()): unquoted(":".join(rest).strip()) for name, *rest in pairs}


def hydra_list(items: Sequence[str]) -> str:
    """Return a list of texts for Hydra's grammar."""
    return f"[{','.join(map(quoted, items))}]"


def hydra_mapping(items: Mapping[str, str]) -> str:
    """Return a mapping of texts for Hydra's grammar, whose names may hold few characters: others are encoded."""
    return f"{{{','.join(f'{_hydra_name(name)}: {quoted(item)}' for name, item in items.items())}}}"


def _hydra_name(name: str) -> str:
    return name if is_plain_name(name) else _ENCODED + quote(name, safe="").replace("~", "%7E")


def is_plain_name(name: str) -> bool:
    """Return whether Hydra's grammar takes a text as a name in `tags.<name>=`."""
    return _PLAIN_NAME.fullmatch(name) is not None


def decoded(name: str) -> str:
    """Return a name that `hydra_mapping` may have encoded."""
    return unquote(name.removeprefix(_ENCODED)) if name.startswith(_ENCODED) else name
