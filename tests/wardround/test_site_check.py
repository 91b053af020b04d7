"""``wardround site check``: its last line, its exit code, its page, its JSON."""

import json
import re
import sys

import pytest

from wardround.__main__ import main


@pytest.fixture
def check(monkeypatch, capsys):
    """Return a function: arguments -> exit code, stdout, stderr of the command in this process."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["wardround", "site", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        out, err = capsys.readouterr()
        return leaving.value.code or 0, out, err

    return run


def test_ready_site_ends_with_ready_and_a_page_for_its_user_alone(check, tmp_path, write_site):
    folder = write_site(tmp_path / "bern", 60)
    code, out, err = check(folder)
    assert (code, out.splitlines()[-1]) == (0, "READY")
    assert "Traceback" not in err
    page = folder / "state/check.html"
    assert page.stat().st_mode & 0o777 == 0o600
    text = page.read_text()
    assert "READY" in text
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text.split("<script>")[0]) == []


def test_blocked_site_says_in_its_last_line_what_to_fix(check, tmp_path, write_site, write_study):
    folder = write_site(tmp_path / "bern", 60, policy={"require_privacy": True})
    code, out, _ = check(folder, "--study", write_study(), "--out", tmp_path / "page.html")
    assert code == 2
    assert out.splitlines()[-1].startswith("BLOCKED: 1 thing to fix: small: query.describe: ")
    assert "BLOCKED" in (tmp_path / "page.html").read_text()
    assert not (folder / "state/check.html").exists()


def test_json_alone_is_on_stdout(check, tmp_path, write_site):
    code, out, _ = check(write_site(tmp_path / "bern", 30), "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["counts"]["patients"]) == (0, "READY", 30)
    assert {"severity", "topic", "where", "what", "remedy"} == set(told["findings"][0]), (
        "a split is small"
    )


def test_site_or_study_that_is_not_there_is_the_user_s_mistake_and_makes_no_folder(
    check, tmp_path, write_site
):
    site = write_site(tmp_path / "bern", 20)
    for arguments in ([tmp_path / "nowhere"], [site, "--study", tmp_path / "no.toml"]):
        code, out, err = check(*arguments)
        assert (code, out) == (2, "")
        assert "there is no such file" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bern"]


def test_site_file_with_a_mistake_is_blocked_with_a_page(check, tmp_path, write_site):
    folder = write_site(tmp_path / "bern", 20)
    (folder / "site.toml").write_text('[site]\nname = "bern"\nstaet = "x"\n')
    code, out, _ = check(folder)
    assert code == 2
    assert out.splitlines()[-1].startswith("BLOCKED: 1 thing to fix: bern/site.toml: ")
    assert (folder / "state/check.html").is_file()
