"""Champions outside the store: the registry, MLflow's ``predict`` and ``serve``, ``rkd predict``, the graph."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assets import upkeep
from assets.partitions import TRAINING_DIMENSION, grid_key, offer_targets
from assets.training_checks import CHECKS
from assets.watching import Watch
from resources.storage import StoreResource
from resources.tracking import MlflowTracking
from rkd_pipeline.cli.main import main
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.definitions import ASSETS, build_defs
from rkd_pipeline.operations import champions
from rkd_pipeline.operations.prediction import predict
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import METRICS
from tests.conftest import need
from tests.integration.tracking_server import answers, free_port, wait_until
from tests.library.arena import TARGET, Finish

ES, MKD = "rkd-es-cal@resnet18.random~1e", "rkd-cal@resnet18.random~1e"


@dataclass(frozen=True)
class Arena:
    """A store with a champion by force after one that came first; both are in MLflow."""

    store: Store
    finish: Finish
    tracking: MlflowTracking
    image: Path

    @property
    def uri(self) -> str:
        return self.tracking.tracking_uri(self.store)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory, new_arena: Callable[[Path], tuple[Store, Finish]]) -> Arena:
    folder = tmp_path_factory.mktemp("models")
    store, finish = new_arena(folder)
    for seed in (0, 1):
        finish(f"{ES}-s{seed}", 1.0)
    champions.challenge(store, TARGET)
    tracking = MlflowTracking()
    tracking.mirror_champions(store, TARGET, {})
    champions.force(store, TARGET, f"{ES}-s1", "to see the alias move")
    tracking.mirror_champions(store, TARGET, {"who": "a test"})
    image = folder / "an image.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(image)
    return Arena(store, finish, tracking, image)


@pytest.fixture(scope="module")
def loaded(arena: Arena) -> mlflow.pyfunc.PyFuncModel:
    mlflow.set_tracking_uri(arena.uri)
    return mlflow.pyfunc.load_model(f"models:/{TARGET}@champion")


def data_uri(image: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"


def test_the_registry_mirrors_every_reign_and_the_alias_is_the_last(arena: Arena) -> None:
    client = mlflow.MlflowClient(arena.uri)
    versions = sorted(client.search_model_versions(f"name = '{TARGET}'"), key=lambda v: int(v.version))
    assert [v.tags["rkd.training"] for v in versions] == [f"{ES}-s0", f"{ES}-s1"]
    assert [v.tags["rkd.how"] for v in versions] == ["first", "forced"]
    assert "to see the alias move" in versions[1].description
    assert all("rkd.selected.image_auroc" in v.tags for v in versions)
    assert client.get_model_version_by_alias(TARGET, "champion").version == versions[1].version
    arena.tracking.mirror_champions(arena.store, TARGET, {})
    assert len(client.search_model_versions(f"name = '{TARGET}'")) == 2
    client.set_registered_model_alias(
        TARGET, "champion", versions[0].version
    )  # somebody's hand; the store is the truth
    arena.tracking.mirror_champions(arena.store, TARGET, {})
    assert client.get_model_version_by_alias(TARGET, "champion").version == versions[1].version


def test_the_logged_model_scores_paths_and_data_uris_as_the_store_does(arena: Arena) -> None:
    mlflow.set_tracking_uri(arena.uri)
    model = mlflow.pyfunc.load_model(f"models:/{TARGET}@champion")
    asked = pd.DataFrame({"picture": [str(arena.image), data_uri(arena.image)]})
    found = model.predict(asked)
    champion = champions.require_champion(arena.store, TARGET)
    expected, maps = champions.open_scorer(champion).score([arena.image])
    assert found["score"].tolist() == pytest.approx([float(expected["map_max"].iloc[0])] * 2)
    assert found["threshold"].tolist() == [champion.threshold] * 2
    assert found["anomalous"].tolist() == [bool(expected["map_max"].iloc[0] > champion.threshold)] * 2
    np.testing.assert_allclose(np.array(found["map"][1]), maps[0], atol=1e-5)
    assert "map" not in model.predict(asked, params={"maps": False})
    with pytest.raises(mlflow.MlflowException, match="not a data URI"):
        model.predict(pd.DataFrame({"picture": ["data:image/png,abc"]}))
    with pytest.raises(mlflow.MlflowException, match=r"gone\.png: the file does not exist"):
        model.predict(pd.DataFrame({"picture": ["gone.png"]}))


def encoded(pixels: np.ndarray, kind: str) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


SMALL = encoded(np.random.default_rng(4).integers(0, 256, (32, 32, 3), dtype=np.uint8), "PNG")
HALF = base64.b64encode(base64.b64decode(SMALL)[: len(SMALL) // 3]).decode()
FLOATS = encoded(np.zeros((8, 8), np.float32), "TIFF")
HUGE = encoded(np.zeros((25000, 20000), bool), "PNG")  # 500 megapixels in a small file


def rows(*values: object, column: str = "picture") -> dict[str, object]:
    return {"dataframe_split": {"columns": [column], "data": [[value] for value in values]}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (rows(None), "row 0: is null; send"),
        (rows([]), "row 0: is of type list; send"),
        (rows({"a": 1}), "row 0: is of type dict; send"),
        (rows(3), "row 0: is of type int; send"),
        (rows("nowhere.png", 2.5, None), "row 1: is of type float.*row 2: is null"),
        (rows(SMALL), "row 0: is base64 alone; put data:image/png;base64, before it"),
        ({"inputs": [SMALL]}, "row 0: is base64 alone"),
        ({"instances": [{"picture": SMALL}]}, "row 0: is base64 alone"),
        (rows("x" * 5000), "row 0: is base64 alone"),
        (rows("x. " * 2000), "row 0: is neither the path of a file nor a data URI"),
        (rows("a\0b"), "row 0: is neither the path of a file nor a data URI"),
        (rows(""), "row 0: is an empty string; send"),
        (rows("https://example.org/a.png"), "row 0: is an address, and nothing is fetched; send"),
        (rows("/"), "row 0: /: is no file; send"),
        (rows("data:image/png,abc"), "no ';base64,' in its head; send"),
        (rows("data:image/png;base64,"), "is a data URI without data; send"),
        (rows(f"data:image/png;base64,{SMALL[:40]}\n{SMALL[40:]}"), "no valid base64; send .* without line breaks"),
        (rows(f"data:image/png;base64,{HALF}"), r"row 0: .*cannot be decoded \(.*truncated\); send the whole image"),
        (rows(f"data:image/tiff;base64,{FLOATS}"), "row 0: .*floating-point pixels.*; save it with 8 or 16 bits"),
        (rows(f"data:image/png;base64,{HUGE}"), "row 0: .*more than 400 megapixels; scale it down"),
        (rows(SMALL, column="image"), "no column 'picture'; give it one"),
        ({"dataframe_records": []}, "no column 'picture'"),
        (rows(), "no rows; send one for each image"),
        ({"inputs": []}, "no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_answered_with_row_fault_and_fix(
    loaded: mlflow.pyfunc.PyFuncModel, body: dict[str, object], said: str
) -> None:
    """By the scoring server's own function: what it answers is the error as JSON."""
    from mlflow.pyfunc.scoring_server import invocations

    with pytest.raises(mlflow.MlflowException) as refused:
        invocations(json.dumps(body).encode(), "application/json", loaded, loaded.metadata.get_input_schema())
    answer = json.loads(refused.value.serialize_as_json())
    assert refused.value.get_http_status_code() == 400
    assert re.search(said, answer["message"], re.DOTALL)
    assert "stack_trace" not in answer
    for content in (SMALL, HALF, FLOATS, HUGE, "x" * 300, "x. x."):
        assert content[:20] not in answer["message"]
    assert "/rkd-" not in answer["message"], "names a temporary file"


def test_upper_case_does_not_decide(loaded: mlflow.pyfunc.PyFuncModel) -> None:
    asked = pd.DataFrame({"picture": [f"data:image/png;base64,{SMALL}", f"DATA:image/PNG;Base64,{SMALL}"]})
    one, other = loaded.predict(asked, params={"maps": False})["score"]
    assert one == other


def test_a_logged_model_has_signature_and_example_and_no_pickle(arena: Arena) -> None:
    mlflow.set_tracking_uri(arena.uri)
    info = mlflow.models.get_model_info(f"models:/{TARGET}@champion")
    assert info.signature.inputs.input_names() == ["picture"]
    assert info.signature.outputs.input_names() == ["score", "threshold", "anomalous", "map"]
    [logged] = mlflow.MlflowClient().search_logged_models(["1"], filter_string=f"model_id = '{info.model_id}'") or [
        None
    ]
    folder = Path(str(logged.artifact_location if logged else info.model_uri).removeprefix("file://"))
    names = {p.name for p in folder.rglob("*") if p.is_file()}
    assert {"student.safetensors", "teacher.safetensors", "scorer.json", "input_example.json"} <= names
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth", ".joblib"))]
    flavour = info.flavors["python_function"]
    assert flavour["model_code_path"].endswith("mlflow_scorer.py")
    assert "python_model" not in flavour  # where a pickled one would be named
    for weights in folder.rglob("*.safetensors"):
        assert weights.stat().st_nlink > 1, "weights are links into the store, not copies"


ALONE = """
import sys
import mlflow, pandas
folder, image = sys.argv[1:]
model = mlflow.pyfunc.load_model(folder)
import rkd_pipeline
print(rkd_pipeline.__file__)
print(model.predict(pandas.DataFrame({"picture": [image]}), params={"maps": False})["score"][0])
"""


def model_folder(arena: Arena) -> Path:
    mlflow.set_tracking_uri(arena.uri)
    info = mlflow.models.get_model_info(f"models:/{TARGET}@champion")
    logged = mlflow.MlflowClient().get_logged_model(info.model_id)
    return Path(str(logged.artifact_location).removeprefix("file://"))


def test_a_logged_model_carries_what_its_code_imports_and_names_the_packages(arena: Arena) -> None:
    folder = model_folder(arena)
    code = folder / "code" / "rkd_pipeline"
    carried = {str(file.relative_to(code)) for file in code.rglob("*.py")}
    assert {"__init__.py", "detectors/exported_model.py", "detectors/reverse_kd.py", "store/files.py"} <= carried
    assert not [f for f in carried if f.startswith(("cli", "stages", "operations", "definitions", "data/download"))]
    assert "detectors/mkd.py" not in carried  # of another system
    named = (folder / "requirements.txt").read_text().split()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in named)
    packages = {line.partition("==")[0] for line in named}
    assert {"mlflow", "torch", "torchvision", "pillow", "safetensors"} <= packages
    assert packages.isdisjoint({"rkd-pipeline", "dagster", "scikit-learn", "matplotlib"})


def test_a_logged_model_loads_by_its_own_code(arena: Arena, tmp_path: Path) -> None:
    """In a process that finds this repository nowhere but in the model."""
    scored, code = _score_alone(Path(sys.executable), arena, tmp_path)
    assert code.startswith(str(model_folder(arena) / "code"))
    assert scored == pytest.approx(_score_in_the_store(arena))


@pytest.mark.slow
def test_a_logged_model_loads_in_an_empty_environment(arena: Arena, tmp_path: Path) -> None:
    """With the packages of the model's requirements alone, from the registry that this machine is set up for."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    need(uv, "no uv")
    empty = tmp_path / "empty"
    python = empty / "bin" / "python"
    subprocess.run([str(uv), "venv", "--quiet", "--python", sys.executable, str(empty)], check=True)
    needed = ["--python", str(python), "-r", str(model_folder(arena) / "requirements.txt")]
    subprocess.run([str(uv), "pip", "install", "--quiet", *needed], check=True, timeout=1800)
    scored, code = _score_alone(python, arena, tmp_path)
    assert code.startswith(str(model_folder(arena) / "code"))
    assert scored == pytest.approx(_score_in_the_store(arena))


def _score_alone(python: Path, arena: Arena, folder: Path) -> tuple[float, str]:
    """The score of the arena's image, and where the code came from; ``-I``: by no path of the environment's."""
    command = [str(python), "-I", "-c", ALONE, str(model_folder(arena)), str(arena.image)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code, score = done.stdout.strip().splitlines()[-2:]
    return float(score), code


def _score_in_the_store(arena: Arena) -> float:
    champion = champions.require_champion(arena.store, TARGET)
    table, _ = champions.open_scorer(champion).score([arena.image])
    return float(table["score"].iloc[0])


def test_predict_writes_an_overlay_and_goes_on_past_what_is_no_image(
    arena: Arena, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):  # main() sets them; monkeypatch puts them back
        monkeypatch.setenv(name, "")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    same_name = tmp_path / "sub" / arena.image.name
    same_name.parent.mkdir()
    same_name.write_bytes(arena.image.read_bytes())
    output = tmp_path / "out"
    images = [str(p) for p in (arena.image, broken, same_name)]
    status = main(["predict", "--target", TARGET, *images, "--output", str(output), "--store", str(arena.store.root)])
    said = capfd.readouterr()
    assert status == 1
    assert "1 of 3 images have a problem" in said.err
    assert "broken.png: cannot be decoded" in said.err
    table = pd.read_csv(output / "predictions.csv")
    champion = champions.require_champion(arena.store, TARGET)
    expected, _ = champions.open_scorer(champion).score([arena.image])
    assert table["score"].tolist() == pytest.approx(
        [expected["map_max"].iloc[0], np.nan, expected["map_max"].iloc[0]], nan_ok=True
    )
    overlays = table["overlay"].dropna().tolist()
    assert len(set(overlays)) == 2
    for overlay in overlays:
        with Image.open(overlay) as drawn:
            assert drawn.width > drawn.height > 200
    assert main(["predict", "--target", "demo.weave", images[0], "--store", str(arena.store.root)]) == 1
    assert "demo.weave has no champion yet" in capfd.readouterr().err


def test_a_training_predicts_without_a_champion_and_at_a_threshold_of_one_s_own(
    new_arena: Callable[[Path], tuple[Store, Finish]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):
        monkeypatch.setenv(name, "")
    store, finish = new_arena(tmp_path)
    training = "rkd@resnet18.random~1e-s0"  # no threshold
    finish(training, 1.0)
    image = _noise(tmp_path / "noise.png")
    asked = ["predict", "--target", TARGET, str(image), "--store", str(store.root), "--output", str(tmp_path / "out")]
    assert main(asked) == 1
    assert "rkd predict --training" in capfd.readouterr().err

    assert main([*asked, "--training", training]) == 0
    assert "nothing is decided: it has no honest threshold, which takes 19" in capfd.readouterr().out
    [row] = pd.read_csv(tmp_path / "out" / "predictions.csv").to_dict("records")
    assert np.isnan(row["threshold"])
    for threshold, called in ((row["score"] - 1e-3, True), (row["score"] + 1e-3, False)):
        assert main([*asked, "--training", training, "--threshold", str(threshold)]) == 0
        [decided] = pd.read_csv(tmp_path / "out" / "predictions.csv").to_dict("records")
        assert (decided["anomalous"], decided["score"]) == (called, pytest.approx(row["score"]))
    assert main([*asked, "--training", "rkd@resnet18.random~1e-s7"]) == 1
    assert "is missing" in capfd.readouterr().err
    assert main([*asked, "--threshold", "nan"]) == 2


def _noise(file: Path) -> Path:
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file)
    return file


def test_a_look_at_the_watched_folder_that_failed_is_made_again(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster runs a run key once: the same one for ever would leave images unscored after one full disk."""
    file = _noise(tmp_path / "a.png")
    os.utime(file, (1e9, 1e9))
    hours = iter([datetime(2026, 1, 1, 9, 10, tzinfo=UTC), *[datetime(2026, 1, 1, 10, m, tzinfo=UTC) for m in (5, 9)]])
    monkeypatch.setattr(upkeep, "datetime", SimpleNamespace(now=lambda _: next(hours)))
    watch = Watch(folder=str(tmp_path), model=TARGET)
    store = StoreResource(root=str(arena.store.root))
    keys = [upkeep.new_images(store=store, watch=watch).run_key for _ in range(3)]
    assert keys[0] != keys[1]
    assert keys[1] == keys[2]


@pytest.mark.slow
def test_a_prediction_needs_neither_mlflow_nor_the_training(arena: Arena) -> None:
    """In a process that cannot import mlflow or dagster."""
    code = (
        "import sys; sys.modules['mlflow'] = sys.modules['dagster'] = None\n"
        "from rkd_pipeline.cli.main import main\n"
        "sys.exit(main(['predict', '--target', *sys.argv[1:]]))"
    )
    environment = os.environ | {"RKD_STORE": str(arena.store.root)}
    command = [sys.executable, "-c", code, TARGET, str(arena.image), "--output", str(arena.image.parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "an image" in done.stdout


def test_champion_commands_say_who_reigns_and_why(
    arena: Arena, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RKD_STORE", "RKD_DATA"):
        monkeypatch.setenv(name, "")
    assert main(["champion", "show", TARGET, "--store", str(arena.store.root)]) == 0
    shown = capfd.readouterr().out
    assert "image AUROC (selected)" in shown
    assert "forced: to see the alias move" in shown
    assert main(["champion", "challenge", TARGET, f"{ES}-s0", "--store", str(arena.store.root)]) == 1
    assert "seeds do not challenge each other" in capfd.readouterr().err


def test_the_graph_lets_configurations_challenge_and_checks_that_trainings_keep_up(
    new_arena: Callable[[Path], tuple[Store, Finish]], tmp_path: Path
) -> None:
    store, finish = new_arena(tmp_path)
    finish(f"{ES}-s0", 2.0)
    settings = Settings(data=tmp_path, store=store.root, device="cpu", mlflow_uri="http://127.0.0.1:9")
    defs = build_defs(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        offer_targets(instance, targets_in(store))
        instance.add_dynamic_partitions(TRAINING_DIMENSION, [f"{ES}-s0"])
        job = defs.resolve_job_def("challenge_champions")
        done = job.execute_in_process(instance=instance, partition_key=TARGET)
        [made] = done.asset_materializations_for_node("challenge")
        assert made.metadata["moved"].value is True
        assert "did not take it" in str(made.metadata["mlflow"].value)  # nothing listens there; the store has it
        assert champions.require_champion(store, TARGET).training == f"{ES}-s0"

        finish(f"{ES}-s0", 0.1)  # the same key, trained again, and much worse
        check = dg.materialize(
            [*ASSETS, *CHECKS],
            selection=dg.AssetSelection.assets(METRICS.name),
            partition_key=grid_key(TARGET, f"{ES}-s0"),
            instance=instance,
            resources=defs.resources,
            raise_on_error=False,
        )
        [verdict] = [e for e in check.get_asset_check_evaluations() if e.check_name == "keeps_up_with_champion"]
        assert not verdict.passed
        assert "against the champion's" in str(verdict.metadata["comparison"].value)


@pytest.mark.slow
def test_mlflow_s_own_commands_predict_and_serve_it(arena: Arena, tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": arena.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # The server is started as `uvicorn`, by its name: an activated environment has it in its path.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "mlflow", "models"]
    table, answer = tmp_path / "in.csv", tmp_path / "out.json"
    pd.DataFrame({"picture": [str(arena.image)]}).to_csv(table, index=False)
    model = ["--env-manager", "local", "-m", f"models:/{TARGET}@champion"]
    asked = [*command, "predict", *model, "-i", str(table), "-t", "csv", "-o", str(answer)]
    subprocess.run(asked, env=environment, check=True, capture_output=True, timeout=400)
    [predicted] = json.loads(answer.read_text())["predictions"]
    champion = champions.require_champion(arena.store, TARGET)
    expected = predict(champions.open_scorer(champion), [arena.image], None).table.iloc[0]
    assert predicted["score"] == pytest.approx(expected["score"])
    assert predicted["anomalous"] == expected["anomalous"]
    assert np.shape(predicted["map"]) == (224, 224)

    with serving([*command, "serve", *model], environment) as address:
        [served] = post(address, [data_uri(arena.image)], maps=False)["predictions"]
        assert served == {key: predicted[key] for key in ("score", "threshold", "anomalous")}
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, ["nowhere.png"])
        assert refused.value.code == 400
        assert "nowhere.png: the file does not exist" in refused.value.read().decode()


class serving:
    """``mlflow models serve`` on a free port."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._port = free_port()
        self._process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self._port)], env=environment, start_new_session=True
        )

    def __enter__(self) -> str:
        address = f"http://127.0.0.1:{self._port}"
        wait_until(lambda: answers(f"{address}/ping"), 240, self._process)
        return address

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def post(address: str, images: list[str], **params: object) -> dict[str, list[dict[str, object]]]:
    body = {"dataframe_split": {"columns": ["picture"], "data": [[p] for p in images]}, "params": params}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/invocations", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)
