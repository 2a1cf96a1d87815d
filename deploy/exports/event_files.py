"""An experiment as one event file of TensorBoard, written by TensorBoard itself; a value there is a float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.extras import need_module
from deploy.story.figures import list_points
from deploy.story.story import ExperimentStory
from messages.ground.errors import WorkFailed

SUFFIX = ".konsil"


class EventFile:
    """The run DIR/ID; an older event file of ours there is replaced.

    Args:
        folder: TensorBoard's `--logdir`.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        need_module("tensorboard", what="--tensorboard")
        self._folder = folder
        self._writer: Any = None
        self._written: set[tuple[str, int]] = set()

    def take_story(self, story: ExperimentStory) -> dict[str, int]:
        """Write what is not there yet; the run's folder → how many values it has. WorkFailed: it cannot be written."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        try:
            self._open_file(self._folder / story.id)
            for one in list_points(story):
                if (one.name, one.step) not in self._written:
                    value = Summary.Value(tag=one.name, simple_value=one.value)
                    event = Event(wall_time=one.time, step=one.step, summary=Summary(value=[value]))
                    self._writer.add_event(event)
                    self._written.add((one.name, one.step))
            self._writer.flush()
        except OSError as error:
            raise WorkFailed(f"cannot be written ({error.strerror})", where=str(self._folder)) from None
        return {str(self._folder / story.id): len(self._written)}

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _open_file(self, folder: Path) -> None:
        if self._writer is None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink()
            self._writer = EventFileWriter(str(folder), filename_suffix=SUFFIX)
