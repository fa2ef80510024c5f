"""What folders and labels are called: which names mean normal, anomalous, a part or masks, whatever their case.

Names are compared without case, blanks, points, dashes and underscores: ``Defect-Free`` is ``defect_free``.
"""

import re
import unicodedata

GOOD = frozenset(
    {"good", "ok", "okay", "normal", "pass", "passed", "defectfree", "nodefect", "nodefects", "faultless", "flawless",
     "healthy", "intact"}
)  # fmt: skip
GOOD_SHOWN = "good (or ok, normal, pass, defect-free, healthy)"
BAD = frozenset(
    {"bad", "abnormal", "anomalous", "anomaly", "anomalies", "defect", "defects", "defective", "faulty", "fail",
     "failed", "ng", "nok", "ko", "notok", "notgood", "nogood", "ungood", "nonnormal", "notnormal", "reject",
     "rejected"}
)  # fmt: skip
TRAIN = frozenset({"train", "training"})
VALIDATION = frozenset({"val", "valid", "validation"})
TEST = frozenset({"test", "testing", "testpublic"})  # MVTec AD 2 calls the one with labels test_public
WITHOUT_LABELS = frozenset({"testprivate", "testprivatemixed"})
MASKS = frozenset({"groundtruth", "gt", "mask", "masks"})
IMAGES = frozenset({"image", "images", "img", "imgs"})

# Folders of these names hold normal or anomalous images, depending on who named them.
_EITHER = frozenset({"negative", "neg", "unlabeled", "unlabelled", "unknown", "unsorted", "unclassified"})
_PLAINLY_GOOD = frozenset({"good", "ok", "okay", "normal"})
_NEGATIONS = frozenset({"not", "no", "non", "n"})


def plain(name: str) -> str:
    """A name without case, blanks, points, dashes and underscores.

    >>> plain("Ground Truth"), plain("N.OK")
    ('groundtruth', 'nok')
    """
    return re.sub(r"[\s_.-]+", "", fold(name))


def fold(name: str) -> str:
    """A file's name without case, and composed: macOS writes an umlaut as two characters, others as one."""
    return unicodedata.normalize("NFC", name.casefold())


def is_good(name: str) -> bool:
    """The name says normal."""
    return plain(name) in GOOD


def is_doubtful(name: str) -> bool:
    """The name of a class may mean normal or anomalous, such as ``good_2`` or ``unknown``: somebody has to say which.

    >>> [is_doubtful(n) for n in ("good_2", "OK - Copy", "unlabeled", "not_good", "hole", "good")]
    [True, True, True, False, False, False]
    """
    if plain(name) in GOOD | BAD:
        return False
    words = re.findall(r"[^\W\d_]+", fold(name))
    return plain(name) in _EITHER or (bool(_PLAINLY_GOOD & set(words)) and not _NEGATIONS & set(words))
