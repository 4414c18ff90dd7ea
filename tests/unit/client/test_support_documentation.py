"""The collector of the commands in the documents finds each block, and what is to be done with it."""

from tests.support.documentation import Block, blocks_in

PAGE = """\
# Title

```sh
echo one
```

<!-- not run: it needs a cluster -->
```bash
kubectl get pods
```

Text in between.

```console
$ echo two
two
$ echo three
...
```

```json
{"no": "command"}
```

- An item:

  ```python
  print(4)
  ```
"""


def found(page: str = PAGE) -> list[Block]:
    return list(blocks_in("page.md", page))


def test_blocks_of_commands_are_found_with_their_lines() -> None:
    assert [(block.line, block.language) for block in found()] == [
        (3, "sh"),
        (8, "bash"),
        (14, "console"),
        (27, "python"),
    ]


def test_a_reason_belongs_to_the_next_block_alone() -> None:
    assert [block.reason for block in found()] == [None, "it needs a cluster", None, None]
    assert [block.reason for block in found(PAGE.replace("```bash", "Text.\n\n```bash"))] == [None] * 4


def test_console_blocks_tell_commands_from_output() -> None:
    console = found()[2]
    assert console.commands == "echo two\necho three"
    assert console.output == "two\n...\n"
    assert found()[0].output is None


def test_blocks_in_lists_lose_their_indentation() -> None:
    assert "\nprint(4)\n" in found()[3].commands
