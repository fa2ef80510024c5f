"""Industrial datasets beyond the paper's: what their publishers say, and, where they do not, what was counted.

An archive's SHA-256 stands here where its publisher, or people who downloaded it and say so, give it; an address
where the publisher gives it out without a form. Nothing of this was downloaded to write it.
"""

from rkd_pipeline.data.catalog.description import Archive, Dataset, Kind, Target, split_by_publisher

_NOT_COMMERCIAL = "CC BY-NC-SA 4.0: not for commercial use"

# VisA: training images, normal test images; 100 anomalous ones test in each. The sums are those of the publisher's
# README (github.com/amazon-science/spot-diff: 9621 normal, 1200 anomalous), the parts those of its split_csv/1cls.csv.
_VISA: tuple[tuple[str, int, int], ...] = (
    ("candle", 900, 100),
    ("capsules", 542, 60),
    ("cashew", 450, 50),
    ("chewinggum", 453, 50),
    ("fryum", 450, 50),
    ("macaroni1", 900, 100),
    ("macaroni2", 900, 100),
    ("pcb1", 904, 100),
    ("pcb2", 901, 100),
    ("pcb3", 905, 101),
    ("pcb4", 904, 101),
    ("pipe_fryum", 450, 50),
)

# BTAD: training images, normal and anomalous test images, as counted in the archive by several who use it (2540 in
# all). The publisher's README (github.com/pankajmishra000/VT-ADL) gives the training images alone, and the numbers of
# products 2 and 3 the other way round.
_BTAD: tuple[tuple[str, int, int, int], ...] = (("01", 400, 21, 49), ("02", 399, 30, 200), ("03", 1000, 400, 41))

# MVTec LOCO AD: training and validation images, normal, logically and structurally anomalous test images, as counted
# in the archive by several who use it (1778 + 305 + 575 + 561 + 432 in all).
_MVTEC_LOCO: tuple[tuple[str, int, int, int, int, int], ...] = (
    ("breakfast_box", 351, 62, 102, 83, 90),
    ("juice_bottle", 335, 54, 94, 142, 94),
    ("pushpins", 372, 69, 138, 91, 81),
    ("screw_bag", 360, 60, 122, 137, 82),
    ("splicing_connectors", 360, 60, 119, 108, 85),
)

# MVTec AD 2: training and validation images, normal and anomalous images of test_public, as counted in the archive by
# several who use it.
_MVTEC_AD_2: tuple[tuple[str, Kind, int, int, int, int], ...] = (
    ("can", "object", 412, 46, 72, 90),
    ("fabric", "texture", 387, 43, 66, 90),
    ("fruit_jelly", "object", 263, 37, 20, 60),
    ("rice", "object", 313, 35, 42, 90),
    ("sheet_metal", "object", 137, 19, 24, 90),
    ("vial", "object", 291, 41, 35, 105),
    ("wallplugs", "object", 293, 33, 60, 90),
    ("walnuts", "object", 432, 48, 60, 90),
)

# MPDD: training images, normal and anomalous test images, as counted in the archive by several who use it (888 + 176 +
# 282 in all); the publisher says "more than 1000".
_MPDD: tuple[tuple[str, int, int, int], ...] = (
    ("bracket_black", 289, 32, 47),
    ("bracket_brown", 185, 26, 51),
    ("bracket_white", 110, 30, 30),
    ("connector", 128, 30, 14),
    ("metal_plate", 54, 26, 71),
    ("tubes", 122, 32, 69),
)

# DAGM 2007: defective images of the test part, as NVIDIA's DeepLearningExamples checks them (UNet_Industrial,
# preprocess_dagm2007.py).
_DAGM = (71, 84, 84, 68, 80, 67, 150, 150, 150, 150)
# The publisher (conferences.mpi-inf.mpg.de/dagm/2007/prizes.html) describes sets of 1000 images without and 150 with a
# defect. So many defects have classes 1 to 6; the later 7 to 10 have 300, and no source of their normal images is at
# hand.
_DAGM_NORMAL, _DAGM_AS_DESCRIBED = 1000, 6

DATASETS = (
    Dataset(
        "visa",
        "Visual Anomaly (VisA)",
        "visa/split_csv/1cls.csv, visa/<category>/Data/Images/{Normal,Anomaly}/* and "
        "visa/<category>/Data/Masks/Anomaly/*",
        "Amazon, github.com/amazon-science/spot-diff",
        "CC BY 4.0",
        "Y. Zou, J. Jeong, L. Pemula, D. Zhang, O. Dabeer, SPot-the-Difference Self-supervised Pre-training for "
        "Anomaly Detection and Segmentation, ECCV 2022",
        Archive(
            ("VisA_20220922.tar", "visa.tar"),
            sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",  # as anomalib has it
            urls=("https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",),
        ),
        folders=("VisA_20220922",),
    ),
    Dataset(
        "btad",
        "beanTech Anomaly Detection (BTAD)",
        "btad/{01,02,03}/train/ok/*, btad/{01,02,03}/test/{ok,ko}/* and btad/{01,02,03}/ground_truth/ko/*",
        "beanTech and University of Udine, github.com/pankajmishra000/VT-ADL",
        "CC BY-SA 4.0",
        "P. Mishra, R. Verk, D. Fornasier, C. Piciarelli, G. L. Foresti, VT-ADL: A Vision Transformer Network for "
        "Image Anomaly Detection and Localization, ISIE 2021",
        Archive(
            ("btad.zip",),
            sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",  # as anomalib has it
            urls=("https://avires.dimi.uniud.it/papers/btad/btad.zip",),
        ),
        folders=("BTech_Dataset_transformed",),
        note="some masks of defect images are empty in the archive (1 of product 02, 10 of product 03, as others count "
        "them): these images leave the pixel metrics",
    ),
    Dataset(
        "mvtec_loco",
        "MVTec Logical Constraints Anomaly Detection (MVTec LOCO AD)",
        "mvtec_loco/<category>/{train,validation}/good/*, "
        "mvtec_loco/<category>/test/{good,logical_anomalies,structural_anomalies}/* and "
        "mvtec_loco/<category>/ground_truth/<kind>/<image>/*",
        "MVTec Software GmbH, www.mvtec.com/company/research/datasets/mvtec-loco",
        _NOT_COMMERCIAL,
        "P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger, Beyond Dents and Scratches: Logical Constraints "
        "in Unsupervised Anomaly Detection and Localization, IJCV 2022",
        Archive(
            ("mvtec_loco_anomaly_detection.tar.xz", "mvtec_loco.tar.xz"),
            sha256="9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687",  # as anomalib has it
            size=6_126_996_224,  # as somebody who downloaded it says
            urls=(
                "https://www.mydrive.ch/shares/48237/1b9106ccdfbb09a0c414bd49fe44a14a/download/"
                "430647091-1646842701/mvtec_loco_anomaly_detection.tar.xz",
            ),
        ),
        folders=("mvtec_loco_anomaly_detection",),
        note="its own metric is sPRO (saturated per-region overlap), which is not computed here; PRO and AUPRO "
        "over the merged masks are no replacement",
    ),
    Dataset(
        "mvtec_ad_2",
        "MVTec AD 2",
        "mvtec_ad_2/<category>/{train,validation}/good/*, mvtec_ad_2/<category>/test_public/{good,bad}/* and "
        "mvtec_ad_2/<category>/test_public/ground_truth/bad/*_mask.png",
        "MVTec Software GmbH, www.mvtec.com/research-teaching/datasets/mvtec-ad-2",
        _NOT_COMMERCIAL,
        "L. Heckler-Kram, J.-H. Neudeck, U. Scheler, R. Koenig, C. Steger, The MVTec AD 2 Dataset: Advanced Scenarios "
        "for Unsupervised Anomaly Detection, 2025",
        Archive(
            ("mvtec_ad_2.tar.gz",),
            sha256="c0ded99ef32bfc8e352d52beb44515e5b292b8598cb963aadfa91ca0763505e4",  # as anomalib has it
            size=32_739_596_982,  # as somebody who downloaded it says
            urls=(
                "https://www.mydrive.ch/shares/150997/701c90d3aea6588f404936e32a674602/download/"
                "466712769-1743429042/mvtec_ad_2.tar.gz",
                "https://www.mydrive.ch/shares/121573/7f68fe2c4f7c2ceaa08f463aaeb2f414/download/"
                "466712769-1743422799/mvtec_ad_2.tar.gz",
            ),
        ),
        note="its test part here is test_public; the labels of test_private and test_private_mixed are the "
        "publisher's, whose server alone measures on them",
    ),
    Dataset(
        "mpdd",
        "Metal Parts Defect Detection (MPDD)",
        "mpdd/<category>/train/good/*, mpdd/<category>/test/<defect>/* and mpdd/<category>/ground_truth/<defect>/*",
        "Brno University of Technology, github.com/stepanje/MPDD",
        "not stated in the publisher's repository; others give CC BY-NC-SA 4.0",
        "S. Jezek, M. Jonak, R. Burget, P. Dvorak, M. Skotak, Deep learning-based defect detection of metal parts: "
        "evaluating current methods in complex conditions, ICUMT 2021",
        Archive(("MPDD.zip", "mpdd.zip")),  # the publisher's link leads to a page that asks who you are
    ),
    Dataset(
        "ksdd2",
        "Kolektor Surface-Defect Dataset 2 (KolektorSDD2)",
        "ksdd2/{train,test}/<number>.png with ksdd2/{train,test}/<number>_GT.png",
        "ViCoS Lab, University of Ljubljana, www.vicos.si/resources/kolektorsdd2",
        _NOT_COMMERCIAL,
        "J. Bozic, D. Tabernik, D. Skocaj, Mixed supervision for surface-defect detection: from weakly to fully "
        "supervised learning, Computers in Industry 2021",
        Archive(
            ("KolektorSDD2.zip", "ksdd2.zip"),
            urls=("https://data.vicos.si/datasets/KSDD/KolektorSDD2.zip", "https://go.vicos.si/kolektorsdd2"),
            md5="1ed0f628122776ace4965afa30dfe316",  # as two programs that download it have it
        ),
        folders=("KolektorSDD2",),
    ),
    Dataset(
        "dagm",
        "Weakly Supervised Learning for Industrial Optical Inspection (DAGM 2007)",
        "dagm/Class<1 to 10>/{Train,Test}/*.PNG with Label/Labels.txt and Label/*_label.PNG",
        "DAGM and GNNS, conferences.mpi-inf.mpg.de/dagm/2007/prizes.html; zenodo.org/records/12750201",
        "CC BY 4.0, as others give it for the copy on Zenodo",
        "M. Wieler, T. Hahn, Weakly Supervised Learning for Industrial Optical Inspection, DAGM 2007",
        Archive(
            ("dagm-2007-competition-dataset-optical-inspection.zip", "DAGM2007.zip", "dagm.zip"),
            kaggle="mhskjelvareid/dagm-2007-competition-dataset-optical-inspection",
        ),
        folders=("DAGM_KaggleUpload", "DAGM2007"),
        note="its masks are ellipses around the defects (weak labels): pixel metrics say how well these are met",
    ),
)

TARGETS: tuple[Target, ...] = (
    *(split_by_publisher("visa", name, "object", train, (good, 100)) for name, train, good in _VISA),
    *(split_by_publisher("btad", name, "object", train, (good, bad)) for name, train, good, bad in _BTAD),
    *(
        split_by_publisher("mvtec_loco", name, "object", train + held, (good, logical + structural))
        for name, train, held, good, logical, structural in _MVTEC_LOCO
    ),
    *(
        split_by_publisher("mvtec_ad_2", name, kind, train + held, (good, bad))
        for name, kind, train, held, good, bad in _MVTEC_AD_2
    ),
    *(split_by_publisher("mpdd", name, "object", train, (good, bad)) for name, train, good, bad in _MPDD),
    # 2085 and 894 normal, 110 anomalous test images, 246 defective ones in training that are not used (the publisher's
    # page and its paper).
    Target("ksdd2", "ksdd2", "ksdd2", "texture", (2085 + 894, 110), True, True, (894, 110)),
    *(
        Target(
            f"dagm.class{number}",
            "dagm",
            f"Class{number}",
            "texture",
            (_DAGM_NORMAL, defective) if number <= _DAGM_AS_DESCRIBED else None,
            True,
            True,
        )
        for number, defective in enumerate(_DAGM, start=1)
    ),
)
