import re

from rkd_pipeline.results.figures import message
from rkd_pipeline.results.report_page import CaptionedFigure, Report, Training, inline, render
from rkd_pipeline.results.tables.sheet import Sheet


def report() -> Report:
    sheet = Sheet("Table 9", ["Category", "Row", "Ours"], [["**<tile>**", "published", "83.4"]], ["A & B"], ["so"])
    maps = CaptionedFigure("head_ct, rkd-s0", message("maps"))
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
        trainings=[Training("head_ct", "rkd-s0", {"image AUROC": "77.2"}, {"Device": "cpu, fp32"}, maps)],
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


def test_text_stays_text() -> None:
    assert inline("**a<b>** & c") == "<strong>a&lt;b&gt;</strong> &amp; c"
