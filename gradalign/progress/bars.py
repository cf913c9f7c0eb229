"""Progress as bars: on a terminal by rich, in a notebook as an output that changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from gradalign.progress.state import OpenStage, Watcher
from gradalign.progress.words import spoken

if TYPE_CHECKING:
    from rich.text import Text

NOTEBOOK_WIDTH = 96
NOTEBOOK_SECONDS = 0.5


class RichReporter(Watcher):
    """A bar for the run with the time left, and below it a bar for the stage, on stderr."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(clock)
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._text,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def _text(self) -> Text:
        from rich.text import Text

        width = self._console.width
        ascii_only = not (self._console.encoding or "").lower().startswith("utf")
        text = Text("\n".join(self.lines(width - 1, ascii_only=ascii_only)), no_wrap=True)
        text.highlight_regex(r"[━#]{2,}", "green")
        text.highlight_regex(r"┄+", "dim")
        return text

    def activity(self, text: str) -> None:
        """Show at once what is being done: what comes next may hold the machine for long."""
        super().activity(text)
        self._live.refresh()

    def changed(self) -> None:
        """Begin to show; the screen is drawn by a thread of its own."""
        if not self._live.is_started:
            self._live.start(refresh=True)

    def opened(self, stage: OpenStage) -> None:
        """Show the stage's bar."""
        self.changed()
        self._live.refresh()

    def finished(self, stage: OpenStage) -> None:
        """Leave a line of a stage that is done."""
        seconds = spoken(self.clock() - stage.begun)
        self.remark(f"{stage.label}: {stage.units:,} {stage.unit} in {seconds}")

    def remark(self, text: str) -> None:
        """Print the line above the bars."""
        self._console.print(text)

    def close(self) -> None:
        """Take the bars off the screen."""
        self._live.stop()


class NotebookReporter(Watcher):
    """The same bars in the output of a notebook's cell."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._handle: Any = None
        self._next = 0.0
        self._remarks: list[str] = []
        self._begun = clock()

    def _show(self) -> None:
        import IPython.display

        shown: Any = IPython.display
        text = "\n".join([*self._remarks, *self.lines(NOTEBOOK_WIDTH)])
        page = shown.HTML(f"<pre>{escape(text)}</pre>")
        if self._handle is None:
            self._handle = shown.display(page, display_id=True)
        else:
            self._handle.update(page)
        self._next = self.clock() + NOTEBOOK_SECONDS

    def activity(self, text: str) -> None:
        """Show at once what is being done."""
        super().activity(text)
        self._show()

    def changed(self) -> None:
        """Draw the bars, where the last drawing is old enough."""
        if self.clock() >= self._next:
            self._show()

    def opened(self, stage: OpenStage) -> None:
        """Show the stage's bar."""
        self._show()

    def finished(self, stage: OpenStage) -> None:
        """Show the stage's end."""
        self._show()

    def remark(self, text: str) -> None:
        """Keep the line above the bars."""
        self._remarks.append(text)
        self._show()

    def close(self) -> None:
        """Leave the remarks, and how long it took."""
        self.doing = self.current = None
        self.remark(f"ended after {spoken(self.clock() - self._begun)}")


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel, as far as IPython says."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"
