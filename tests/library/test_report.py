import re
from dataclasses import replace

from rkd_pipeline.results.figures import message
from rkd_pipeline.results.report_page import (
    CaptionedFigure,
    ListedTraining,
    Report,
    TrainingPage,
    inline,
    render,
    render_training,
)
from rkd_pipeline.results.tables.sheet import Sheet


def report() -> Report:
    sheet = Sheet("Table 9", ["Category", "Row", "Ours"], [["**<tile>**", "published", "83.4"]], ["A & B"], ["so"])
    return Report(
        subtitle="Measured: one",
        left_out={"head_ct rkd-s1": "split has changed since"},
        tables=[sheet],
        unmeasured=[Sheet("Table 8", ["Category", "Row"], [["x", "measured"]])],
        figures=[CaptionedFigure("Figure 3. Something", message("figure"))],
        history=[Sheet("What moved in re-benchmark 3", ["Target", "Verdict"], [["head_ct", "within noise"]])],
        over_time=CaptionedFigure("over re-benchmarks", message("lines")),
        leaderboard=sheet,
        pairs=None,
        ranks=CaptionedFigure("ranks", message("ranks")),
        recipes=sheet,
        systems=[Sheet("demo.weave", ["System", "AUPRO"], [["patchcore, resnet18", "93.1"]])],
        side_by_side=[CaptionedFigure("Quality against cost", message("costs"))],
        ablation=[Sheet("Ablation around rkd", ["Factor", "Change"], [["beta2", "0.99 to 0.999"]])],
        effects=[CaptionedFigure("effects", message("effects"))],
        claims=Sheet("Claims", ["Claim", "Verdict"], [["Our PRO is better", "cannot be told"]]),
        headings=["image AUROC", "AUPRO"],
        trainings=[ListedTraining("head_ct", "rkd-s0", {"image AUROC": "77.2"}, "../training_page/head_ct/rkd-s0/p")],
        examples=[CaptionedFigure("head_ct, rkd-s0", message("maps"))],
        provenance=Sheet("Provenance", ["Teacher", "Computed on"], [["resnet18", "cpu, fp32"]]),
        datasets=[{"Dataset": "Head CT", "Licence": "not stated"}],
        versions={"torch": "2.0"},
    )


def test_everything_given_is_in_the_page() -> None:
    html = render(report())
    texts = "Measured: one|Table 9|Table 8|Figure 3. Something|split has changed since|rkd-s0|77.2|cpu, fp32|not stated"
    texts += "|Ablation around rkd|0.99 to 0.999|cannot be told|What moved in re-benchmark 3|over re-benchmarks"
    texts += "|patchcore, resnet18|93.1|Quality against cost"
    texts += "|torch 2.0|<strong>&lt;tile&gt;</strong>|A &amp; B"
    for text in texts.split("|"):
        assert text in html, text


def test_the_page_needs_nothing_else() -> None:
    html = render(report())
    assert len(re.findall(r'src="data:image/png;base64,', html)) == 6
    assert not re.findall(r'src="(?!data:)', html)
    assert "<script" not in html
    assert "<link" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_it_stays_small_with_thousands_of_trainings() -> None:
    numbers = {"image AUROC": "97.3 [96.0, 98.1]", "AUPRO": "91.0 [90.1, 92.2]"}
    address = "../training_page/mvtec_ad.metal_nut/rkd-official@resnet18.4c740094-s{0}r{0}/page.html"
    many = [
        ListedTraining("mvtec_ad.metal_nut", f"rkd-official@resnet18.4c740094-s{n}r{n}", numbers, address.format(n))
        for n in range(5000)
    ]
    examples = [CaptionedFigure(f"target {n}", bytes(400_000)) for n in range(20)]
    left_out = {f"head_ct rkd-s{n}": "split has changed since" for n in range(5000)}
    html = render(replace(report(), trainings=many, examples=examples, left_out=left_out))
    assert html.count("<a href=") > 5000
    assert "rkd-s19: split has changed since" in html
    assert "and 4980 more: `rkd status` lists them all" in html
    assert len(html.encode()) < 20e6


def test_a_training_s_page_has_its_numbers_and_leads_back() -> None:
    html = render_training(
        TrainingPage(
            target="head_ct",
            key="rkd-s0",
            report="../../../report/report.html",
            figures=[CaptionedFigure("Test images and their maps", message("maps"))],
            numbers=Sheet("Numbers", ["Metric", "Score", "Value"], [["image_auroc", "map_max", "77.2 [70.1, 81.0]"]]),
            provenance={"Computed on": "cpu, fp32", "MLflow run": ""},
        )
    )
    texts = ("head_ct", "rkd-s0", 'href="../../../report/report.html"', "77.2 [70.1, 81.0]", "cpu, fp32", "their maps")
    for text in texts:
        assert text in html, text
    assert "MLflow run" not in html
    assert not re.findall(r'src="(?!data:)', html)


def test_text_stays_text() -> None:
    assert inline("**a<b>** & c") == "<strong>a&lt;b&gt;</strong> &amp; c"
