"""Medical datasets beyond the paper's."""

from rkd_pipeline.data.catalog.description import Archive, Dataset, Target

DATASETS = (
    Dataset(
        "bmad",
        "Benchmarks for Medical Anomaly Detection (BMAD)",
        "bmad/<set>/train/good/*, bmad/<set>/valid/{good,Ungood}/* and bmad/<set>/test/{good,Ungood}/*, with folders "
        "img and label in the classes of the sets that have masks",
        "J. Bao et al., github.com/DorisBao/BMAD",
        "that of each set it is made of (BraTS2021, BTCV and LiTS, RESC, OCT2017, RSNA, Camelyon16); some ask for "
        "registration",
        "J. Bao, H. Sun, H. Deng, Y. He, Z. Zhang, X. Li, BMAD: Benchmarks for Medical Anomaly Detection, CVPR "
        "Workshops 2024",
        Archive(("bmad.zip",)),  # the publisher gives it out in a folder of Google Drive, by hand
        note="its valid/good trains here, since validation parts are drawn from the training part; valid/Ungood is not "
        "used, since nothing is chosen by labels. bmad.oct2017 holds images of retinal_oct",
    ),
)

# Sizes are published in a picture of a table alone, of which no text is at hand: no counts.
_WITH_MASKS = {"brain": True, "liver": True, "resc": True, "oct2017": False, "chest": False, "histopathology": False}

TARGETS: tuple[Target, ...] = tuple(
    Target(f"bmad.{name}", "bmad", name, "medical", None, True, masks) for name, masks in _WITH_MASKS.items()
)
