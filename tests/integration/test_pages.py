"""The pages that people open, in Debian's chromium: what the command line made is there to see."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import mlflow
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from resources.instance import open_instance
from resources.tracking import MlflowTracking
from rkd_pipeline.data.user_targets import OwnTarget, targets_in
from rkd_pipeline.stages.mirror_records import mlflow_run_id
from rkd_pipeline.store.stage_versions import METRICS
from tests.conftest import need
from tests.integration.conftest import RECIPE, TRAINING, Rkd
from tests.integration.servers import LOCATION, Pages, listening, serving, wait_until

# Chromium's own calls home are refused on many a closed network, noisily.
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1500,1700"
)
PATIENCE = 60  # seconds, for a page
SCREENSHOTS = os.environ.get("RKD_SCREENSHOTS")  # a folder, to look at what the tests saw


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    need(shutil.which("chromium") and shutil.which("chromedriver"), "no chromium and chromedriver (Debian's packages)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS.split():
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(demo: Rkd) -> Iterator[Pages]:
    with serving(demo) as pages:
        yield pages


def wait_for(browser: WebDriver, pattern: str) -> str:
    """The page's text, once it matches."""
    found = WebDriverWait(browser, PATIENCE).until(
        lambda b: (text := b.find_element(By.TAG_NAME, "body").text) and re.search(pattern, text) and text,
        f"the page never showed {pattern!r}",
    )
    if SCREENSHOTS:
        name = re.sub(r"\W+", "-", pattern)[:40].strip("-")
        browser.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))
    return str(found)


def show_markdown(browser: WebDriver, row: int) -> None:
    """Open the row-th markdown value of an asset's metadata."""
    links = WebDriverWait(browser, PATIENCE).until(
        lambda b: len(found := b.find_elements(By.XPATH, "//*[text()='[Show Markdown]']")) > row and found
    )
    browser.execute_script("arguments[0].scrollIntoView(); arguments[0].click()", links[row])


def show_named(browser: WebDriver, name: str) -> None:
    """Open the markdown value of that name."""
    row = f"//tr[.//*[normalize-space(text())='{name}']]//*[text()='[Show Markdown]']"
    [link] = WebDriverWait(browser, PATIENCE).until(lambda b: b.find_elements(By.XPATH, row))
    browser.execute_script("arguments[0].scrollIntoView(); arguments[0].click()", link)


def test_table_3_is_on_its_page(browser: WebDriver, pages: Pages) -> None:
    browser.get(f"{pages.dagster}/assets/table_3")
    wait_for(browser, "Table 3 of the paper")
    show_markdown(browser, 0)
    text = wait_for(browser, r"Head CT\s+published\s+78\.0\s+77\.2\s+81\.3")
    assert "not measured" in text


def test_a_partition_shows_its_images(browser: WebDriver, pages: Pages) -> None:
    browser.get(f"{pages.dagster}/assets/metrics?partition={quote(f'demo.weave|{TRAINING}')}&view=partitions")
    wait_for(browser, "image_auroc_map_max")
    show_named(browser, "maps")
    wait_for(browser, r"maps\.png")
    assert inline_widths(browser) == [480]  # and where the full size is; the other images are there as paths


def test_the_report_reads_in_a_browser_from_its_file_alone(browser: WebDriver, demo: Rkd, tmp_path: Path) -> None:
    printed = demo("report")
    assert printed.returncode == 0, printed.stderr
    alone = tmp_path / "report.html"
    shutil.copy(printed.stdout.strip().splitlines()[-1], alone)
    browser.get(alone.as_uri())
    text = wait_for(browser, "Generated demonstration images")
    for shown in ("nothing measured yet", "Leaderboard", "Nothing is chosen on test images", TRAINING):
        assert shown in text
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) >= 6  # four figures, the ranks, the maps of the training
    assert min(widths) > 300
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_the_lineage_reads_from_data_to_paper(browser: WebDriver, pages: Pages) -> None:
    browser.get(f"{pages.dagster}/asset-groups/")
    text = wait_for(browser, r"data[\s\S]*evaluation[\s\S]*paper[\s\S]*reports[\s\S]*training")
    assert "rror loading" not in text


@pytest.mark.slow
def test_the_demo_s_asset_graph_shows_what_each_step_is(browser: WebDriver, pages: Pages) -> None:
    """Every asset of a group has a node, as far as the window reaches: what lies outside is not drawn."""
    size = browser.get_window_size()
    browser.set_window_size(2600, 2600)
    for group, assets in {
        "data": ["dataset_source", "images", "split", "prepared_images", "dataset_card"],
        "evaluation": ["anomaly_scores", "metrics"],
        "paper": ["benchmark", "table_1", "table_demo", "figure_7"],
        "reports": ["leaderboard", "history", "report", "scored_pictures"],
    }.items():
        browser.get(f"{pages.dagster}/locations/{LOCATION}/asset-groups/{group}/lineage")
        for name in assets:
            wait_for(browser, name)
    browser.set_window_size(size["width"], size["height"])


@pytest.mark.slow
def test_the_dataset_card_shows_its_images(browser: WebDriver, pages: Pages) -> None:
    browser.get(f"{pages.dagster}/assets/dataset_card?partition=demo.weave&view=partitions")
    show_markdown(browser, 0)
    text = wait_for(browser, "Licence|licence")
    assert "demo.weave" in text
    browser.get(f"{pages.dagster}/assets/dataset_card?partition=demo.weave&view=partitions")
    show_markdown(browser, 1)
    wait_for(browser, r"montage\.png")
    assert min(inline_widths(browser)) >= 256


@pytest.mark.slow
def test_a_trained_model_shows_its_losses(browser: WebDriver, pages: Pages) -> None:
    browser.get(f"{pages.dagster}/assets/trained_model?partition={quote(f'demo.weave|{TRAINING}')}&view=partitions")
    wait_for(browser, "final_train_loss")
    show_markdown(browser, 0)
    assert min(inline_widths(browser)) >= 256


@pytest.mark.slow
def test_the_history_is_on_its_page(browser: WebDriver, pages: Pages) -> None:
    browser.get(f"{pages.dagster}/assets/history")
    wait_for(browser, "Every target's numbers over all re-benchmarks")
    text = wait_for(browser, "No re-benchmark yet: docs/how-to/operate.md")  # so short that the page shows it at once
    assert "history.png" in text


@pytest.mark.slow
def test_a_backfill_is_launched_from_the_page(browser: WebDriver, pages: Pages, demo: Rkd) -> None:
    """Click by click: the job's page, its dialogue, a target and two trainings, launch; then the daemon trains them."""
    keys = ["rkd@resnet18.random~1e-s4", "rkd@resnet18.random~1e-s5"]
    for key in keys:
        pages.add_training(key)
    browser.get(f"{pages.dagster}/locations/{LOCATION}/jobs/train_and_evaluate")
    click(browser, "Materialize all…")
    wait_for(browser, "Launch runs to materialize 5 assets")
    choose(browser, "target", ["demo.weave"])
    choose(browser, "training", keys)
    wait_for(browser, "2 partitions")
    click(browser, "Launch backfill")
    wait_until(lambda: backfills(pages), "the backfill to be there")
    wait_until(lambda: backfills(pages)[0]["status"] != "REQUESTED", "the backfill to end", 500)
    assert backfills(pages)[0]["status"] == "COMPLETED_SUCCESS"
    for key in keys:
        assert demo.store.require(METRICS, "demo.weave", key).facts["image_auroc"]


def choose(browser: WebDriver, dimension: str, partitions: list[str]) -> None:
    """Tick partitions of one dimension in the launch dialogue."""
    list_ = f"(//*[@role='dialog']//span[text()='{dimension}']/following::*[@aria-haspopup='dialog'])[1]"
    browser.find_element(By.XPATH, list_).click()
    for name in partitions:
        box = WebDriverWait(browser, PATIENCE).until(
            lambda b: b.find_element(By.XPATH, "//input[@placeholder='Filter partitions']")
        )
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(name)
        ticked = f"//div[@title='{name}']/ancestor::li//input[@type='checkbox']"
        found = WebDriverWait(browser, PATIENCE).until(lambda b, ticked=ticked: b.find_elements(By.XPATH, ticked))
        browser.execute_script("arguments[0].click()", found[0])
    box.send_keys(Keys.ESCAPE)


def backfills(pages: Pages) -> list[dict[str, str]]:
    query = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { id status } } } }"
    return list(pages.graphql(query)["results"])


def click(browser: WebDriver, label: str) -> None:
    """Click the button with that label, once it is there and can be clicked."""
    xpath = f"//button[normalize-space()='{label}' and not(@disabled)]"
    found = WebDriverWait(browser, PATIENCE).until(lambda b: b.find_elements(By.XPATH, xpath))
    browser.execute_script("arguments[0].click()", found[0])


def inline_widths(browser: WebDriver) -> list[int]:
    """Widths of the inline images, once there are any."""
    return list(
        WebDriverWait(browser, PATIENCE).until(
            lambda b: b.execute_script(
                "return [...document.images].filter(i => i.src.startsWith('data:image/')).map(i => i.naturalWidth)"
            )
        )
    )


@pytest.mark.slow
def test_mlflow_shows_the_model(browser: WebDriver, pages: Pages, demo: Rkd) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{demo.store.mlflow_folder / 'mlflow.db'}")
    run = client.get_run(mlflow_run_id(demo.store, "demo.weave", TRAINING))
    [model] = run.outputs.model_outputs
    browser.get(f"{pages.mlflow}/#/experiments/1/models/{model.model_id}")
    text = wait_for(browser, r"Model ID|Model attributes")
    assert model.model_id in text


def test_the_printed_address_opens_on_the_runs(browser: WebDriver, pages: Pages, demo: Rkd) -> None:
    """Not on MLflow's home page, nor on the traces that it shows of experiments without a kind."""
    [address] = re.findall(r"^MLflow +(http\S+)", demo.log.read_text(), re.MULTILINE)[-1:]
    assert address.startswith(pages.mlflow)
    browser.get(address)
    text = wait_for(browser, r"Run Name[\s\S]*demo\.weave " + re.escape(TRAINING))
    assert "matching runs" in text
    assert "Observability" not in text  # of the column for GenAI


def test_mlflow_shows_the_run_with_its_model(browser: WebDriver, pages: Pages, demo: Rkd) -> None:
    run_id = mlflow_run_id(demo.store, "demo.weave", TRAINING)
    link = MlflowTracking(pages=pages.mlflow).run_page(demo.store, run_id)  # as it stands on the training's page
    assert link is not None
    browser.get(link)
    # Long lists are drawn as far as one sees them, in any order: their lengths tell that they are there.
    text = wait_for(browser, r"demo\.weave " + re.escape(TRAINING) + r"[\s\S]*Metrics \(\d+\)[\s\S]*Parameters \(\d+\)")
    for shown in ("rkd.recipe", RECIPE, "Finished"):
        assert shown in text
    run = mlflow.MlflowClient(f"sqlite:///{demo.store.mlflow_folder / 'mlflow.db'}").get_run(run_id)
    assert f"Metrics ({len(run.data.metrics)})" in text
    assert "image_auroc.map_max" in run.data.metrics


def test_a_key_added_in_the_ui_is_trained_by_the_daemon(pages: Pages, demo: Rkd) -> None:
    """What the launch dialogue sends: a new training key, then a run of its partition by the daemon."""
    key = "mkd-brief@resnet18.random~1e-s3"  # the smallest student
    pages.add_training(key)
    assert pages.wait_for_run(pages.launch("train_and_evaluate", f"demo.weave|{key}")) == "SUCCESS"
    assert demo.store.require(METRICS, "demo.weave", key).facts["image_auroc"]


def test_the_servers_listen_on_this_machine_only(pages: Pages) -> None:
    assert listening(pages) <= {"127.0.0.1", "::1"}


def test_a_target_entered_by_hand_is_offered_by_the_running_ui(pages: Pages, demo: Rkd, tmp_path: Path) -> None:
    """A line in targets.toml is all; the daemon's sensor makes it a partition."""
    for name in ("good", "bad"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    targets_in(demo.store).add(OwnTarget("mine", tmp_path / "mine"))
    instance, _ = open_instance(demo.store)
    wait_until(lambda: "mine" in instance.get_dynamic_partitions("target"), "the sensor to offer the new target")
