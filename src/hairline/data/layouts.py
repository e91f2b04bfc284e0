"""Layouts: which folders below the user's folder are classes, which are splits, and what is neither.

`read` takes a tree of folders and returns its class folders. Where a tree can mean several things it raises a
`QuestionError` that draws the tree and names the setting for each meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hairline.config import commands
from hairline.config.schema import ClassFrom
from hairline.data.classes import is_known_name, renamed
from hairline.data.folders import Folder, is_image, is_image_like, merge
from hairline.data.manifest import printable
from hairline.system.errors import HairlineError, QuestionError

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT_NAME = "|".join(_SPLIT_NAMES)
_SPLIT = re.compile(rf"(?:\d+[ ._-]*)?({_SPLIT_NAME})(?:[ ._-]?(?:set|split|data|dataset))?")
_SPLIT_AND_CLASS = re.compile(rf"(?P<split>{_SPLIT_NAME})[ ._-]+(?P<label>.+)")
_CLASS_AND_SPLIT = re.compile(rf"(?P<label>.+)[ ._-]+(?P<split>{_SPLIT_NAME})")
_UNLABELLED = re.compile(r"(?:un|not[ _-]?)(?:label+ed|sorted|classified|annotated)")
# Images that mark where something is in other images.
_MASKS = re.compile(r"ground[ _-]?truths?|gt|masks|segmentations?|annotations|labels")
_MASKS_OF = re.compile(
    r"(?P<stem>.*?[ _-]?)(?:lab|label|labels|mask|masks|gt|ground[ _-]?truth|seg|segmentations?|annotations?)"
)
_MASKED = r"(?:img|imgs|image|images|photo|photos|pic|pics|pictures|original|originals)"
# What programs append to the name of a folder that they divide into several archives, before or after unpacking.
_PART = re.compile(
    r"(?P<stem>.*?)[ ._-]*(?:"
    r"(?:part|pt|vol|volume|chunk|dis[ck]|teil|partie|parte|zip|rar|z)[ ._-]*\d+(?:[ _-]*(?:of|von|de|sur)[ _-]*\d+)?"
    r"|\d+[ _-]*(?:of|von|de|sur)[ _-]*\d+|\(\d+\)|(?<!\d)\.\d{3}|\d{8}T\d{6}Z(?:-\d+)?-\d{3})",
    re.IGNORECASE,
)
_DRIVE = re.compile(r"-\d{8}T\d{6}Z(-\d+)?-\d{3}$")  # what Google Drive appends, to single archives too
BESIDE = "not read: beside the splits"
_NESTED_SHARE = 0.95  # of its images lie in sub-folders: a folder that only holds these, but for a stray file
_LEVELS = 3  # of a drawn tree
_MOST_DRAWN = 12  # sub-folders of one folder
_MOST_LISTED = 6  # names in a sentence


class LayoutError(HairlineError):
    """A folder without class folders."""


@dataclass(frozen=True)
class ClassFolder:
    """The images of one class, of one split.

    Attributes:
        split: train, val, test, or empty if the layout gives none.
        label: Name of the class, in NFC.
        folder: Holds the images.
        below: Whether images in its sub-folders are of the class too.
    """

    split: str
    label: str
    folder: Folder
    below: bool = True


@dataclass
class Layout:
    """What a tree of folders means.

    Attributes:
        root: The folder that holds the classes or splits; below the user's folder if that holds nothing else.
        classes: All class folders, in natural order.
        left_out: Folders that are neither class nor split, with the reason.
        strays: Images beside class folders, in no class.
        is_whole: `root` is the user's folder itself, as it is.
    """

    root: Folder
    classes: list[ClassFolder] = field(default_factory=list)
    left_out: dict[Folder, str] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)
    is_whole: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether there are only class folders, without sub-folders."""
        deeper = any(entry.folder.folders or entry.split for entry in self.classes)
        return self.is_whole and set(self.root.folders) == {entry.folder for entry in self.classes} and not deeper

    def files(self, entry: ClassFolder) -> Iterator[Path]:
        """Yield the files of a class folder, in natural order, without those of folders that are left out."""
        return self._files_in(entry.folder) if entry.below else iter(entry.folder.files)

    def loose(self) -> Iterator[Path]:
        """Yield images that lie beside class folders or splits, in no folder of theirs."""
        above = [self.root, *(child for child in self.root.folders if child not in self.left_out)]
        candidates = [*filter(is_image, (file for folder in above for file in folder.files)), *self.strays]
        if not candidates:
            return
        read = {file for entry in self.classes for file in self.files(entry)}
        yield from (file for file in dict.fromkeys(candidates) if file not in read)

    def _files_in(self, folder: Folder) -> Iterator[Path]:
        if folder not in self.left_out:
            yield from folder.files
            for child in folder.folders:
                yield from self._files_in(child)

    def draw(self) -> str:
        """Return the tree, three levels deep, with counts of images and what each folder is read as."""
        return draw(
            self.root, self.left_out | {entry.folder: f"class {printable(entry.label)}" for entry in self.classes}
        )


def read(tree: Folder, class_from: ClassFrom = "auto") -> Layout:
    """Find the classes and splits in a tree.

    Args:
        tree: The user's folder.
        class_from: What the class of an image is named after. `top`: the first folder below the user's folder, or below
            a split. `parent`: the folder the image lies in. `auto`: `top`, if there is no doubt.

    Raises:
        QuestionError: With class_from=auto, if folders hold only sub-folders whose names repeat or follow a pattern.
        LayoutError: If the folders hold photos and masks of them instead of classes.
    """
    root = unwrapped(tree)
    joined = _joined(root)
    if joined is not root:
        root = unwrapped(joined)
    layout = Layout(root, is_whole=root is tree)
    _leave_out_masks(root, layout)
    found = list(_with_splits(root, layout) if _has_splits(root) else _without_splits(root.folders, "", layout))
    if class_from == "parent":
        found = [entry for top in found for entry in _by_parent(top, layout)]
    layout.classes = _split_by_name([part for entry in found for part in _divided(entry, layout)])
    _check_masks(layout)
    if class_from == "auto":
        _check_nested(layout)
    return layout


def draw(root: Folder, notes: Mapping[Folder, str] | None = None) -> str:
    """Return a tree of folders as text: indented names, numbers of images, and a note where there is one.

    Args:
        root: The tree.
        notes: A note for some of its folders.
    """
    lines = list(_drawn(root, notes or {}, 0))
    width = max(len(name) for name, _, _ in lines)
    return "\n".join(f"  {name:<{width}}  {count:>7,} images  {note}".rstrip() for name, count, note in lines)


def _drawn(folder: Folder, notes: Mapping[Folder, str], level: int) -> Iterator[tuple[str, int, str]]:
    yield "  " * level + printable(folder.name), folder.all_images, notes.get(folder, "")
    if level == _LEVELS:
        return
    for child in folder.folders[:_MOST_DRAWN]:
        yield from _drawn(child, notes, level + 1)
    if len(folder.folders) > _MOST_DRAWN:
        rest = folder.folders[_MOST_DRAWN:]
        yield "  " * (level + 1) + f"{len(rest)} more", sum(child.all_images for child in rest), ""


# --- the folder that holds the classes --------------------------------------------------------------------------------


def unwrapped(tree: Folder, split: str = "") -> Folder:
    """Return the first folder that does more than hold a single sub-folder: archives often wrap their content.

    A chain of folders that ends with images is a class, not a wrapper. Within a split, folders may have its name.
    """
    folder = tree
    while not folder.images:
        children = [child for child in _with_images(folder) if not _is_masks(child, folder.folders)]
        if len(children) != 1:
            break
        (child,) = children
        if _split_of(child) not in ("", split) or is_known_name(child.name) or _MASKS.fullmatch(child.name.lower()):
            break
        folder = child
    return folder if len(_with_images(folder)) > 1 or _has_splits(folder) else tree


def _joined(root: Folder) -> Folder:
    """Return a folder in which parts of one archive, unpacked side by side, are one folder.

    If all sub-folders are parts of one archive, it is the content of that archive.
    """
    groups: dict[str, list[tuple[Folder, str]]] = {}
    for child in _with_images(root):
        match = _PART.fullmatch(child.name)
        stem = (match["stem"] if match else child.name).strip(" ._-")
        groups.setdefault(stem.lower(), []).append((child, stem if match else ""))
    joined: dict[Folder, Folder] = {}
    for group in groups.values():
        parts, stems = [child for child, _ in group], [stem for _, stem in group if stem]
        # One may be without a number, as in `archive`, `archive (1)`. Numbered folders of images may be classes.
        if len(stems) < max(1, len(parts) - 1) or (len(parts) < 2 and not _DRIVE.search(parts[0].name)):
            continue
        if len(groups) == 1 and any(part.images for part in parts):
            continue
        whole = merge(parts, stems[0] or parts[0].name)
        inner = _with_images(whole)
        if len(inner) == 1 and not whole.images:
            whole = inner[0]
        joined |= dict.fromkeys(parts, whole)
    if not joined:
        return root
    if len(groups) == 1:
        return next(iter(joined.values()))
    children = dict.fromkeys(joined.get(child, child) for child in root.folders)
    return Folder(root.path, root.files, list(children))


def _with_images(folder: Folder) -> list[Folder]:
    return [child for child in folder.folders if child.all_images]


# --- splits and classes -----------------------------------------------------------------------------------------------


def split_named(name: str) -> str:
    """Return the split that a name means; empty if none.

    >>> [split_named(name) for name in ("Training", "VALID", "test_set", "2_val", "trains")]
    ['train', 'val', 'test', 'val', '']
    """
    match = _SPLIT.fullmatch(name.strip().lower())
    return _SPLIT_NAMES[match[1]] if match else ""


def _split_of(folder: Folder) -> str:
    return split_named(folder.name)


def _has_splits(root: Folder) -> bool:
    """Return whether sub-folders are named after splits, and hold the classes.

    A folder `test` without classes beside class folders is no split, but images without labels.
    """
    named = [child for child in root.folders if _split_of(child)]
    if any(_split_of(child) == "train" and _with_images(child) for child in named):
        return True
    others = [child for child in _with_images(root) if not _split_of(child) and not _is_masks(child, root.folders)]
    return bool(named) and (any(_with_images(child) for child in named) or len(others) < 2)


def _with_splits(root: Folder, layout: Layout) -> Iterator[ClassFolder]:
    """Yield <split>/<class> folders, and class folders beside `val` and `test`, which are for training."""
    splits = [child for child in root.folders if _split_of(child)]
    beside = [child for child in root.folders if not _split_of(child)]
    found: list[ClassFolder] = []
    if not any(_split_of(child) == "train" for child in splits):
        inside = {grandchild.name for child in splits for grandchild in child.folders}
        if any(child.name in inside for child in beside):
            found += _without_splits(beside, "", layout)
            beside = []
    layout.left_out |= {child: BESIDE for child in beside if child.all_images and child not in layout.left_out}
    in_splits = {
        child: list(_without_splits(unwrapped(child, _split_of(child)).folders, _split_of(child), layout))
        for child in splits
    }
    for child, entries in in_splits.items():
        known = {entry.label for other in splits if other is not child for entry in in_splits[other]}
        if not entries and child.images:
            layout.left_out[child] = "not read: no class folders, so the images have no labels"
        elif len(entries) == 1 and len(known) > 1 and entries[0].label not in known:
            layout.left_out[child] = "not read: holds no class of the other splits, so the images have no labels"
        else:
            found += entries
    yield from found


def _without_splits(children: Sequence[Folder], split: str, layout: Layout) -> Iterator[ClassFolder]:
    """Yield <class> folders; `layout` notes the folders that are none."""
    alone = all(_split_of(child) for child in children)
    for child in children:
        if child in layout.left_out:
            continue
        unlabelled = _UNLABELLED.fullmatch(child.name.strip().lower()) and len(children) > 2
        if (unlabelled or (not split and not alone and _split_of(child))) and child.images:
            layout.left_out[child] = "not read: no class folders, so the images have no labels"
        elif child.folders and not child.all_images and any(child.all_files()):
            layout.left_out[child] = "not read: no images"
        elif not child.folders and child.files and not any(map(is_image_like, child.files)):
            layout.left_out[child] = "not read: no images"
        else:
            yield ClassFolder(split, child.name.strip(), child)


def _by_parent(top: ClassFolder, layout: Layout) -> Iterator[ClassFolder]:
    """Yield a class for each folder that holds files directly; folders of splits give the split."""
    if top.folder in layout.left_out:
        return
    if _only_holds_folders(top.folder, layout):
        layout.strays += filter(is_image, top.folder.files)
    elif top.folder.files:
        yield ClassFolder(top.split, top.label, top.folder, below=False)
    for child in top.folder.folders:
        split = _split_of(child)
        yield from _by_parent(ClassFolder(split or top.split, top.label if split else child.name, child), layout)


def _divided(entry: ClassFolder, layout: Layout) -> list[ClassFolder]:
    """Return a class folder that holds only folders of splits as one class folder for each."""
    children = [child for child in _with_images(entry.folder) if child not in layout.left_out]
    if entry.split or entry.folder.images or not (entry.below and children and all(map(_split_of, children))):
        return [entry]
    return [ClassFolder(_split_of(child), entry.label, child) for child in children]


def _split_by_name(entries: list[ClassFolder]) -> list[ClassFolder]:
    """Return class folders that are all named after a split and a class, as `train_rust`, `test_rust`, by both."""
    named = []
    for entry in entries:
        name = entry.label.lower()
        match = _SPLIT_AND_CLASS.fullmatch(name) or _CLASS_AND_SPLIT.fullmatch(name)
        if match is None or entry.split:
            return entries
        label = entry.label[slice(*match.span("label"))]
        named.append(ClassFolder(_SPLIT_NAMES[match["split"]], label, entry.folder))
    several = len({entry.label.lower() for entry in named}) > 1 and len({entry.split for entry in named}) > 1
    return named if several else entries


# --- masks ------------------------------------------------------------------------------------------------------------


def _leave_out_masks(folder: Folder, layout: Layout) -> None:
    """Note all folders of masks, at any depth."""
    for child in folder.folders:
        if _is_masks(child, folder.folders):
            layout.left_out[child] = "not read: masks"
        else:
            _leave_out_masks(child, layout)


def _is_masks(folder: Folder, siblings: Iterable[Folder]) -> bool:
    """Return whether a folder holds masks of the images beside it; by its name, and that of the folder beside it."""
    name = folder.name.lower()
    if not folder.all_images:
        return False
    return _MASKS.fullmatch(name) is not None or any(_masks_of(name, other.name.lower()) for other in siblings)


def _masks_of(name: str, other: str) -> bool:
    match = _MASKS_OF.fullmatch(name)
    return match is not None and re.fullmatch(re.escape(match["stem"]) + _MASKED, other) is not None


def _check_masks(layout: Layout) -> None:
    """Raise if there are only folders of images beside folders of masks."""
    masks = [folder for folder, reason in layout.left_out.items() if reason.endswith("masks")]
    labels = {entry.label.lower() for entry in layout.classes}
    if masks and labels and all(map(is_images, labels)):
        raise LayoutError(
            f"{layout.root.path} holds images and masks of them ({printable(masks[0].name)}), not classes:\n"
            f"{layout.draw()}\nExpected one folder per class, such as cracked and uncracked"
        )


def is_images(name: str) -> bool:
    """Return whether a folder is named after images in general, such as `photos` or `train_img`, not after a class."""
    return re.fullmatch(rf"(.*[ _-])?{_MASKED}", name.lower()) is not None


# --- folders of folders -----------------------------------------------------------------------------------------------


def _check_nested(layout: Layout) -> None:
    """Raise if folders hold only sub-folders whose names repeat or follow a pattern: are these the classes?

    Folders with the names of classes (`cracked`, `good`) are the classes, whatever they hold.
    """
    below: dict[str, dict[str, Folder]] = {}
    for entry in layout.classes:
        branch = _branching(entry.folder, layout)
        if branch:
            below.setdefault(entry.label, {}).update({child.name: child for child in branch})
    names = {label: list(children) for label, children in below.items()}
    distinct = {name.lower() for children in names.values() for name in children}
    known = any(map(is_known_name, distinct))
    classes = any(is_known_name(entry.label) for entry in layout.classes)
    others = {entry.label.lower() for entry in layout.classes} - {label.lower() for label in names}
    if len(distinct & others) > 1:  # as in `rust`, `plain`, `copy/rust`, `copy/plain`
        raise _question(layout, names, {})
    if len(names) < 2 or len(distinct) < 2 or (classes and not known):
        return
    repeated = len(distinct) < sum(map(len, names.values()))
    pattern = _pattern(names)
    if repeated or pattern or known:
        raise _question(layout, names, {} if repeated else pattern)


def _only_holds_folders(folder: Folder, layout: Layout) -> bool:
    """Return whether the images of a folder lie in sub-folders, but for a stray one."""
    below = sum(child.all_images for child in folder.folders if child not in layout.left_out)
    return below > 0 and below >= _NESTED_SHARE * (folder.images + below)


def _branching(folder: Folder, layout: Layout) -> list[Folder]:
    """Return the sub-folders of a folder that only holds these, or of the only folder it holds."""
    children = [child for child in _with_images(folder) if child not in layout.left_out]
    if not _only_holds_folders(folder, layout):
        return []
    if len(children) == 1 and not folder.images:
        return _branching(children[0], layout) or children
    return children


def _question(layout: Layout, names: dict[str, list[str]], pattern: dict[str, str]) -> QuestionError:
    """Return the question what the classes are, with up to four answers."""
    root, tops = layout.root, list(dict.fromkeys(entry.label for entry in layout.classes))
    leaves = sorted({name for children in names.values() for name in children})
    choices: list[tuple[str, list[str]]] = []
    parent = commands.override("data.class_from", "parent")
    if pattern:
        new_names = sorted(set(pattern.values()))
        mapping = commands.override("data.class_map", pattern)
        choices.append((f"the inner folders, by their pattern: {_listed(new_names)}", [parent, mapping]))
    choices.append((f"the inner folders: {_listed(leaves)}", [parent]))
    choices.append((f"the outer folders: {_listed(tops)}", [commands.override("data.class_from", "top")]))
    nested = next(iter(names))
    first = next((child for child in root.folders if child.name == nested), None)
    if first is not None:
        alone = commands.override("data.path", str(first.path))
        choices.append((f"the inner folders of {printable(nested)} alone: {_listed(names[nested])}", [alone]))
    how = "follow a pattern" if pattern else "repeat"
    which = f"folders {_enumerated(list(names))} hold" if len(names) > 1 else f"folder {printable(nested)} holds"
    return QuestionError(
        f"{root.path}: the {which} only sub-folders, whose names {how}:\n{draw(root)}\nWhich folders are the classes?",
        choices,
    )


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} classes, {_enumerated(names)}" if len(names) > 1 else f"1 class, {printable(names[0])}"


def _enumerated(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:_MOST_LISTED])) + (", ..." if len(names) > _MOST_LISTED else "")


def _pattern(names: dict[str, list[str]]) -> dict[str, str]:
    """Return a class map from the names of inner folders to what they share across outer folders; empty if nothing.

    Args:
        names: Inner folders by outer folder.

    >>> _pattern({"D": ["CD", "UD"], "P": ["CP", "UP"]})
    {'C*': 'cracked', 'U*': 'uncracked'}
    >>> _pattern({"wall": ["wall_rust", "wall_spall"], "deck": ["deck_rust", "deck_spall"]})
    {'*_spall': 'spall', '*_rust': 'rust'}
    >>> _pattern({"a": ["x"], "b": ["y"]})
    {}
    """
    for shared in (_without_outer, _without_initial, _without_digits):
        tokens = {(outer, name): shared(name, outer) for outer, inner in names.items() for name in inner}
        outers: dict[str, set[str]] = {}
        for (outer, _), token in tokens.items():
            outers.setdefault(token.lower(), set()).add(outer)
        if "" in outers or len(outers) < 2 or not any(len(each) > 1 for each in outers.values()):
            continue
        meaning = _meaning(set(outers))
        wanted = {name: meaning.get(token.lower(), token) for (_, name), token in tokens.items()}
        globs = {_glob(name, token): meaning.get(token.lower(), token) for (_, name), token in tokens.items()}
        ordered = dict(sorted(globs.items(), key=lambda item: -len(item[0])))
        if len(set(globs.values())) == len(globs) and all(renamed(name, ordered) == wanted[name] for name in wanted):
            return dict(sorted(ordered.items())) if len(set(map(len, globs))) == 1 else ordered
        return wanted
    return {}


def _without_outer(name: str, outer: str) -> str:
    """Return an inner folder's name without the outer folder's at its beginning or end, or as a word within it."""
    rest = ""
    if name.lower().startswith(outer.lower()):
        rest = name[len(outer) :]
    elif name.lower().endswith(outer.lower()):
        rest = name[: -len(outer)]
    elif match := re.search(rf"(?<![^\W_]){re.escape(outer)}(?![^\W_])", name, re.IGNORECASE):
        rest = name[: match.start()] + name[match.end() :]
    return rest.strip(" _-.,()[]")


def _without_initial(name: str, outer: str) -> str:
    """Return an inner folder's name without the outer folder's first letter at its end or beginning."""
    return _without_outer(name, outer[:1]) if len(name) < 5 else ""


def _without_digits(name: str, outer: str) -> str:
    return re.sub(r"[ _-]*\d+[ _-]*", "", name)


def _glob(name: str, token: str) -> str:
    """Return the pattern of names that begin or end like this one."""
    if token and name.startswith(token):
        return f"{token}*"
    place = name.find(token)
    before = name[place - 1 : place] if place and name[place - 1 : place] in " _-." else ""
    return f"*{before}{token}"


def _meaning(tokens: set[str]) -> dict[str, str]:
    """Return the classes that well-known abbreviations stand for."""
    return {"c": "cracked", "u": "uncracked"} if tokens == {"c", "u"} else {}
