"""The datasets of the paper, and the generated demo."""

from rkd_pipeline.data.catalog.description import Archive, Dataset, Kind, Target

# MVTec AD: category, kind, training images, good and defect test images (3629 / 1725, 467 of them good, in all),
# side in pixels (Bergmann et al. 2019, table 1).
_MVTEC_AD: tuple[tuple[str, Kind, int, int, int, int], ...] = (
    ("carpet", "texture", 280, 28, 89, 1024),
    ("grid", "texture", 264, 21, 57, 1024),
    ("leather", "texture", 245, 32, 92, 1024),
    ("tile", "texture", 230, 33, 84, 840),
    ("wood", "texture", 247, 19, 60, 1024),
    ("bottle", "object", 209, 20, 63, 900),
    ("cable", "object", 224, 58, 92, 1024),
    ("capsule", "object", 219, 23, 109, 1000),
    ("hazelnut", "object", 391, 40, 70, 1024),
    ("metal_nut", "object", 220, 22, 93, 700),
    ("pill", "object", 267, 26, 141, 800),
    ("screw", "object", 320, 41, 119, 1024),
    ("toothbrush", "object", 60, 12, 30, 1024),
    ("transistor", "object", 213, 60, 40, 1024),
    ("zipper", "object", 240, 32, 119, 1024),
)

DATASETS = (
    Dataset(
        "brain_mri",
        "Brain MRI Images for Brain Tumor Detection",
        "brain_mri/no/* (98 normal images) and brain_mri/yes/* (155 with a tumour)",
        "Kaggle: navoneel/brain-mri-images-for-brain-tumor-detection",
        "not stated by the publisher",
        "N. Chakrabarty, Brain MRI Images for Brain Tumor Detection, 2019",
        Archive(
            ("brain-mri-images-for-brain-tumor-detection.zip", "brain_mri.zip"),
            kaggle="navoneel/brain-mri-images-for-brain-tumor-detection",
        ),
    ),
    Dataset(
        "head_ct",
        "Head CT - hemorrhage",
        "head_ct/labels.csv (columns id, hemorrhage) and head_ct/head_ct/000.png to 199.png",
        "Kaggle: felipekitamura/head-ct-hemorrhage",
        "not stated by the publisher",
        "F. Kitamura, Head CT - hemorrhage, 2018",
        Archive(("head-ct-hemorrhage.zip", "head_ct.zip"), kaggle="felipekitamura/head-ct-hemorrhage"),
    ),
    Dataset(
        "mvtec_ad",
        "MVTec Anomaly Detection",
        "mvtec_ad/<category>/train/good/*, mvtec_ad/<category>/test/<defect>/* and "
        "mvtec_ad/<category>/ground_truth/<defect>/*_mask.png",
        "MVTec Software GmbH, www.mvtec.com/company/research/datasets/mvtec-ad",
        "CC BY-NC-SA 4.0: not for commercial use",
        "P. Bergmann, M. Fauser, D. Sattlegger, C. Steger, MVTec AD - A Comprehensive Real-World Dataset for "
        "Unsupervised Anomaly Detection, CVPR 2019",
        Archive(
            ("mvtec_anomaly_detection.tar.xz", "mvtec_ad.tar.xz"),
            sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
            size=5_264_982_680,
            urls=(  # the publisher's shares, the newer first; both have died before
                "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
                "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
                "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f282/download/"
                "420938113-1629952094/mvtec_anomaly_detection.tar.xz",
            ),
        ),
    ),
    Dataset(
        "retinal_oct",
        "Retinal OCT images (Kermany et al., OCT2017)",
        "retinal_oct/train/NORMAL/* and retinal_oct/test/{NORMAL,CNV,DME,DRUSEN}/* (val/ too, if there)",
        "Kaggle: paultimothymooney/kermany2018",
        "CC BY 4.0",
        "D. Kermany, K. Zhang, M. Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
        "Classification, Mendeley Data, 2018",
        Archive(
            ("kermany2018.zip", "OCT2017.tar.gz", "retinal_oct.zip", "retinal_oct.tar.gz"),
            kaggle="paultimothymooney/kermany2018",
        ),
    ),
    Dataset(
        "demo",
        "Generated demonstration images",
        "made on demand from a fixed seed, in the layout of MVTec AD",
        "this project, rkd_pipeline/data/synthetic/",
        "the project's own (Apache-2.0)",
        "none needed",
    ),
)

TARGETS = (
    Target("brain_mri", "brain_mri", "brain_mri", "medical", (98, 155), official_split=False, has_masks=False),
    Target("head_ct", "head_ct", "head_ct", "medical", (100, 100), official_split=False, has_masks=False),
    Target("demo.weave", "demo", "weave", "texture", (92, 24), True, True, (16, 24)),
    Target("demo.grain", "demo", "grain", "texture", (92, 24), True, True, (16, 24)),
    Target("demo.bracket", "demo", "bracket", "object", (92, 24), True, True, (16, 24)),
    Target("demo.print", "demo", "print", "object", (92, 24), True, True, (16, 24)),
    *(
        Target(
            f"mvtec_ad.{name}",
            "mvtec_ad",
            name,
            kind,
            (train + good, defect),
            True,
            True,
            (good, defect),
            side=side,
        )
        for name, kind, train, good, defect, side in _MVTEC_AD
    ),
    # All 26,315 normals, and the seeded half that stands for the paper's (its own choice was not published).
    Target("retinal_oct", "retinal_oct", "retinal_oct", "medical", (26_565, 750), True, False, (250, 750)),
    Target("retinal_oct.half", "retinal_oct", "half", "medical", (13_407, 750), True, False, (250, 750)),
)
