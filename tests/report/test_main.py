import subprocess
import sys

import pytest

from lit_share.report.__main__ import main


def test_prints_the_table(tmp_path, write, capsys):
    write(tmp_path / "a" / "0", "none")
    write(tmp_path / "b" / "0", "l2", strength=0.1)
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--metric", "a/test/acc"])
    out = capsys.readouterr().out
    assert "l2" in out
    assert "a/test/acc" in out


def test_runs_that_left_nothing_are_named(tmp_path, write, capsys):
    write(tmp_path / "0")
    (tmp_path / "1" / ".hydra").mkdir(parents=True)
    main([str(tmp_path)])
    assert f"1 without a result.json: {tmp_path / '1'}" in capsys.readouterr().out.replace("\n", "")


def test_any_strategy_can_be_the_baseline(tmp_path, write, capsys):
    write(tmp_path / "0", "none", test=0.5)
    write(tmp_path / "1", "hard_tie", test=0.75)
    main([str(tmp_path), "--baseline", "hard_tie"])
    table = capsys.readouterr().out
    assert "− hard_tie" in table
    assert "-0.25 ± " in table


def test_writes_a_picture(tmp_path, write):
    write(tmp_path / "0", "soft_tie")
    main([str(tmp_path), "--svg", str(tmp_path / "table.svg")])
    picture = (tmp_path / "table.svg").read_text()
    assert picture.startswith("<svg")
    assert "soft_tie" in picture
    assert "url(" not in picture.replace("url(#", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DIR"),
        (["empty"], "no result.json below empty"),
        (["nowhere"], "no directory nowhere"),
        (["run", "--metric", "b/test/ac"], "did you mean 'b/test/acc'?"),
        (["run", "--baseline", "l2"], "no run of the baseline 'l2': there are none"),
        (["broken"], "is not the result of a run"),
    ],
)
def test_errors_have_code_2(tmp_path, write, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "broken", seed="x")
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_as_a_module_without_torch(tmp_path, write):
    write(tmp_path)
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = [{str(tmp_path)!r}]\n"
        "runpy.run_module('lit_share.report', run_name='__main__')\n"
        "assert not {'torch', 'lightning'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "b/test/acc" in done.stdout
