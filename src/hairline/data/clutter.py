"""What systems and programs leave behind in folders of photos: thumbnails, recycle bins, metadata, copies.

The only such list: training, evaluation and inspection skip the same files.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# Names in lower case; patterns match the whole name. A name that starts with a dot is skipped anyway, but named here if
# lists of files (CSV) may contain it.
_FOLDERS = re.compile(
    # NAS systems
    r"@eadir|@(syno|tmp|sharebin|database|app|quarantine|s2s|download|docker).*|[#@~.]recycle|network recycle bin.*"
    r"|[#~.]snapshots?|@recently-snapshot|@gmt-.*|\.zfs|\.?@__thumb|\.@.*|\.wdmc|\.readydlna|trashbox"
    r"|network trash folder|temporary items|thevolumesettingsfolder|\.apple(double|db|desktop)|\.streams"
    # operating systems
    r"|\$recycle\.bin|recycler|system volume information|lost\+found|found\.\d{3}|lost\.dir|dfsrprivate|config\.msi"
    r"|msocache"
    r"|\.trash(es|-\d+)?|\.(fseventsd|spotlight-v100|temporaryitems|documentrevisions-v100)"
    # archives and code
    r"|__macosx|paxheaders?(\.\d+)?|\.git|\.svn|\.hg|\.dvc|cvs|__pycache__|\.ipynb_checkpoints|node_modules"
    # cloud drives
    r"|\.dropbox(\.cache)?|\.tmp\.drive(up|down)load|\.shortcut-targets-by-id|\.st(versions|folder)|\.sync|\.debris"
    r"|\.synologyworkingdirectory|\.box.*|appdata_oc.*|files_(trashbin|versions)|!sync"
    # picture programs and cameras
    r"|[._@~#-]*(thumbs?|thumbnails?|thumb(nail)?s?[ _-]?cache|thmbnl|previews?)|_tn|adobe bridge cache|zbthumbnail.*"
    r"|\.picasaoriginals|\[originals\]|.*\.lrdata|\.photoprism|nksc_param|canonmsc"
)
_FILES = re.compile(
    r"thumbs\.db(:encryptable)?|ehthumbs(_vista)?\.db|desktop\.ini|icon\r|autorun\.inf|desktop\.d[bf]|pspbrwse\.jbf"
    r"|synophoto_(thumb|film).*|.*@syno(eastream|resource)|albumart(small|_\{.*)\.jpe?g|zbthumbnail\.info"
    r"|nc_fllst\.dat|thumbnails.*\.(db|jbf)|wpsettings\.dat|indexervolumeguid"
    r"|~.*|.*~|.*\.~\w+|.*\.(tmp|temp|part|partial|crdownload|download|!ut|bak|swp|lnk|url|webloc|icloud|ini|db|chk"
    r"|opdownload|filepart|gstmp|ffs_(db|lock))|.*_original|.*zone\.identifier|synctoy_.*\.dat"
    r"|.*\.(xmp|aae|thm|lrv|ctg|pp3|dop|cos|cop|cot|on1|vrd|moi|modd)"  # notes of cameras and programs on a photo
)
# Marks around the name of the original in the names of copies; each has the original's stem as its first group.
_COPIES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(.+) \((?:.* )?(?:conflicted copy|in konflikt stehende kopie|copie en conflit|copia en conflicto)\b.*\)",
        r"(.+) \((?:sfconflict|case conflict|unicode encoding conflict|selective sync conflict)\b.*\)",
        r"(.+)\.sync-conflict-\d{8}-\d{6}(?:-\w+)?",
        r"(.+)_conflict-\d{8}-\d{6}",
        r"(.+)[_-][^_-]+_[A-Z][a-z]{2}-\d{2}-\d{4,6}-\d{4}_conflict(?:\(\d+\))?",
        r"(.+)[ _-]?\[conflict(?:[ _-]?\d+)?\]",
        r"(.+?)[._-](?:thumb(?:nail)?|tn|preview)",
        r"(?:thumb(?:nail)?|tn|preview)[._-](.+)",
        r"(.+)[-_][1-9]\d{1,3}x[1-9]\d{1,3}",
        r"(.+)-scaled",
        r"(.+)-checkpoint",
    )
]
_MARK = re.compile(
    r"conflict|konflikt|conflit|thumb|tn|preview|\dx\d|-scaled|-checkpoint", re.IGNORECASE
)  # in all of them
# Whole histories of a folder: too many files to count.
_UNCOUNTED = re.compile(r"\.git|\.svn|\.hg|\.dvc|\.zfs|[#~.]snapshots?|@recently-snapshot|@gmt-.*")


def is_clutter_folder(name: str) -> bool:
    """Return whether a folder of this name is skipped, with all it holds."""
    return name.startswith(".") or is_named_clutter(name)


def is_named_clutter(name: str) -> bool:
    """Return whether a system or program gives a folder this name; a hidden folder of the user's own is not named.

    >>> [is_named_clutter(name) for name in ("@eaDir", ".@__thumb", "__MACOSX", ".cache", "cracked")]
    [True, True, True, False, False]
    """
    return _FOLDERS.fullmatch(name.lower()) is not None


def is_clutter_file(name: str, siblings: Collection[str] = ()) -> bool:
    """Return whether a file is skipped.

    Args:
        name: Its name.
        siblings: Names of the files in its folder. A thumbnail or conflicted copy is known by the name of its original,
            and skipped if that lies beside it.

    >>> is_clutter_file("Thumbs.db"), is_clutter_file("._1.jpg"), is_clutter_file("1.jpg")
    (True, True, False)
    >>> is_clutter_file("1_thumb.jpg", ["1.jpg", "1_thumb.jpg"]), is_clutter_file("1_thumb.jpg", ["1_thumb.jpg"])
    (True, False)
    """
    if name.startswith(".") or _FILES.fullmatch(name.lower()):
        return True
    stem, dot, suffix = name.rpartition(".")
    if not dot or not _MARK.search(stem):
        return False
    matches = (pattern.fullmatch(stem) for pattern in _COPIES)
    return any(f"{match[1]}.{suffix}" in siblings for match in matches if match)


def is_counted(name: str) -> bool:
    """Return whether the files of a skipped folder are counted; copies of whole folders are not."""
    return _UNCOUNTED.fullmatch(name.lower()) is None
