"""What the runner of the pages runs, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs.notebooks import PageError, check, read_page, run_page, write


def page(tmp_path: Path, text: str):
    path = tmp_path / "page.md"
    path.write_text(text.replace("'''", "```"), "utf-8")
    return read_page(path)


def run(tmp_path: Path, text: str):
    made, folder = page(tmp_path, text), tmp_path / "empty"
    folder.mkdir(exist_ok=True)
    return made, run_page(made, folder)


def test_blocks_share_names_and_a_folder(tmp_path):
    made, printed = run(
        tmp_path,
        """---
needs: [somewhere]
---
<!-- setup
from pathlib import Path
hidden = 2
-->

- in a list

    '''python
    shown = hidden + 1
    '''

'''{.yaml title="notes/run.yaml"}
a: 1
'''

'''console
$ cat notes/run.yaml
$ python -c \\
    "print(2)"
'''

'''{.text .output}
a: 1
2
'''

'''python
print(shown, Path("notes/run.yaml").read_text(), Path.cwd().name)
'''

'''{.text .output}
wrong
'''

'''
not run
'''
""",
    )
    assert made.needs == ("somewhere",)
    assert list(printed.values()) == ["a: 1\n2\n", "3 a: 1\n empty\n"]


def test_what_is_shown_is_what_is_printed(tmp_path):
    text = "'''python\nprint('one  \\n\\nafter 12.5 ms, 3 slots')\n'''\n\n'''{.text .output}\nSHOWN\n'''\nend\n"
    check(*run(tmp_path, text.replace("SHOWN", "one\n\nafter 9 ms, 3 slots")))
    wrong, printed = run(tmp_path, text.replace("SHOWN", "one\n\nafter 9 ms, 4 slots"))
    with pytest.raises(PageError, match=r"page\.md:6: shown is\none\n\nafter 9 ms, 4 slots\n\nbut printed is\none"):
        check(wrong, printed)
    assert write(wrong, printed)
    again = read_page(wrong.path)
    check(again, printed)
    assert not write(again, printed)
    assert wrong.path.read_text("utf-8").endswith("\n```\nend\n")


def test_a_page_of_another_python_is_run_but_not_compared(tmp_path):
    text = "---\npython: '2.7'\n---\n'''python\nprint(1)\n'''\n'''{.text .output}\n2\n'''"
    check(*run(tmp_path, text))
    with pytest.raises(PageError, match="but printed is"):
        check(*run(tmp_path, text.replace("2.7", "{}.{}".format(*sys.version_info))))


def test_marked_blocks_are_not_run(tmp_path):
    text = """'''{.python .no-run reason="needs a GPU"}
raise SystemExit
'''
'''{.sh .no-run reason="installs"}
pip install cmt-memory
'''"""
    assert not page(tmp_path, text).blocks


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'''{.python .no-run}\n'''", "1: a block that is not run gives its reason"),
        ("'''python\n", "1: a block that ``` does not end"),
        ("<!-- setup\n", "1: a block that --> does not end"),
        ("'''sh\ncmt-memory demo\npip install x\n'''", "3: 'pip' is none of cat, cmt-memory"),
        ("'''{.text .output}\n'''", "1: an output stands right below"),
        ("'''python\n'''\nwords\n'''{.text .output}\n'''", "4: an output stands right below"),
        ("'''yaml\n'''\n'''{.text .output}\n'''", "3: an output stands right below"),
    ],
)
def test_a_page_that_cannot_be_run_is_refused(tmp_path, text, said):
    with pytest.raises(PageError) as error:
        page(tmp_path, text)
    assert f"page.md:{said}" in str(error.value)


def test_a_block_that_fails_names_its_place(tmp_path):
    with pytest.raises(PageError, match=r"page\.md:3: ZeroDivisionError: division by zero"):
        run(tmp_path, "\n'''python\n1 / 0\n'''")
    with pytest.raises(PageError, match=r"page\.md:2: exit code 3: said"):
        run(tmp_path, "'''sh\npython -c \"print('said'); raise SystemExit(3)\"\n'''")
