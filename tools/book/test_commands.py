"""Tests of commands.py, without a server: tools/book/run runs them first."""

import tempfile
import unittest
from pathlib import Path

import commands

PAGE = """# A page

<!-- not run: needs a GPU -->
```sh
nvidia-smi
```

```console
$ maskclip segment a.png \\
    --classes tiger
 9.2 %  tiger
$ ls
```

```json
{"classes": ["tiger"]}
```
"""


class Pages(unittest.TestCase):
    def read(self, text: str) -> commands.Page:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "page.md").write_text(text)
            return commands.read(str(Path(folder) / "page.md"))

    def test_blocks_have_commands_output_and_reasons(self) -> None:
        page = self.read(PAGE)
        self.assertEqual(page.faults, [])
        self.assertEqual([(block.language, block.reason) for block in page.blocks], [("sh", "needs a GPU"), ("console", None)])
        expected = [("maskclip segment a.png \\\n    --classes tiger", " 9.2 %  tiger\n"), ("ls", "")]
        self.assertEqual(commands.steps(page.blocks[1]), expected)

    def test_code_that_no_test_would_find_is_a_fault(self) -> None:
        self.assertEqual(len(self.read("Run\n\n    maskclip serve\n").faults), 1)
        self.assertEqual(len(self.read("```\n$ maskclip serve\n```\n").faults), 1)
        self.assertEqual(len(self.read("- a list\n\n    goes on\n").faults), 0)

    def test_numbers_and_what_is_left_out_may_differ(self) -> None:
        self.assertTrue(commands.shows("| 43.39 | 1 |\n...\n", "| 5.1 | 22 |\nmore\n"))
        self.assertTrue(commands.shows('{"id":"6f1c2ab09d3e4f57",...}', '{"id":"0123456789abcdef0","a":[1]}\n'))
        self.assertFalse(commands.shows("3 images labelled", "3 images refused"))

    def test_servers_are_known_by_their_commands(self) -> None:
        for command, own in [("make serve   # the first time", None), ("maskclip serve --model demo-vit &", "maskclip serve --model demo-vit")]:
            self.assertEqual(commands.SERVE.match(command)[1], own)
        self.assertIsNone(commands.SERVE.match("MASKCLIP_MEMORY__LIMIT_BYTES=1 maskclip serve"))


if __name__ == "__main__":
    unittest.main()
