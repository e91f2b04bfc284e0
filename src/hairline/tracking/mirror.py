"""From a run directory's journal into an MLflow run, entry by entry; an entry that comes twice changes nothing."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

from hairline.system import files
from hairline.tracking import models, store
from hairline.tracking.journal import RUN_ID, Entry, run_id

log = logging.getLogger(__name__)

DIRECTORY = "run_directory"  # a tag
LARGE = ("artifact", "image", "model")  # what may take its time to send
_BATCH = 900  # points of one request: MLflow takes 1,000
# What no second try mends: the entry is left out. All else may be an outage.
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")


class Mirror:
    """The MLflow run of a run directory.

    Attributes:
        run_id: Its id; None until the journal's beginning is delivered.
        experiment_id: Of its experiment.
    """

    def __init__(self, directory: Path, uri: str | None) -> None:
        """Take a run directory, and a tracking server or store as for `store.connect`."""
        self.directory = directory
        self.run_id = run_id(directory)
        self.experiment_id = ""
        self._uri = store.address(uri)  # kept: the environment may change before the last entry

    def deliver(self, entries: list[Entry]) -> int:
        """Send the first entries: several points, or one of another kind.

        Args:
            entries: At least one.

        Returns:
            How many are in MLflow now.

        Raises:
            Exception: MLflow's, SQLAlchemy's or the operating system's, if the server or store does not take them.
        """
        points = list(itertools.takewhile(lambda entry: entry["kind"] == "metrics", entries))
        chosen, size = [], 0
        for entry in points:
            size += len(entry["values"])
            if chosen and size > _BATCH:
                break
            chosen.append(entry)
        try:
            if chosen:
                self._metrics(chosen)
            else:
                self._one(entries[0])
        except (FileNotFoundError, store.mlflow().MlflowException) as error:
            if not isinstance(error, FileNotFoundError) and error.error_code not in _REFUSED:
                raise
            first = entries[0]
            if len(chosen) > 1:
                return self.deliver(entries[:1])  # the others are none the worse for one that is refused
            if chosen and len(first["values"]) > 1:
                for key, value in first["values"].items():
                    self.deliver([{**first, "values": {key: value}}])
                return 1
            what = " ".join(first.get("values") or [first["kind"]])
            log.warning("WARNING: MLflow does not take %s, left out: %s", what, str(error).splitlines()[0])
        return len(chosen) or 1

    def known(self) -> bool:
        """Tell whether the store has the run; one of another store, or deleted, it has not."""
        return self.run_id is not None and store.exists(self._uri, self.run_id)

    def _one(self, entry: Entry) -> None:
        {
            "begin": self._begin,
            "parameters": self._parameters,
            "tags": self._tags,
            "text": self._text,
            "dataset": self._dataset,
            "artifact": self._artifact,
            "image": self._image,
            "model": self._model,
            "end": self._end,
        }[entry["kind"]](entry)

    def _begin(self, entry: Entry) -> None:
        if self.run_id is not None:
            self._client().update_run(self.run_id, status="RUNNING")
            self.experiment_id = str(self._client().get_run(self.run_id).info.experiment_id)
            return
        self.experiment_id = store.connect(self._uri, entry["experiment"])
        with store.locked():  # processes that begin at once must not keep each other from writing
            # A process may have died between the run's creation and the note of its id.
            asked = f"attributes.start_time = {entry['time']}"
            found = self._client().search_runs([self.experiment_id], asked)
            tags = {**entry["tags"], DIRECTORY: str(self.directory)}
            made = [run for run in found if run.data.tags.get(DIRECTORY) == tags[DIRECTORY]] or [
                self._client().create_run(
                    self.experiment_id, start_time=entry["time"], tags=tags, run_name=entry["name"]
                )
            ]
        self.run_id = str(made[0].info.run_id)
        files.write_text(self.directory / RUN_ID, self.run_id + "\n")

    def _metrics(self, entries: list[Entry]) -> None:
        from mlflow.entities import Metric

        points = []
        for entry in entries:
            name, digest = entry.get("dataset") or (None, None)
            tied = {"model_id": entry.get("model_id"), "dataset_name": name, "dataset_digest": digest}
            points += [
                Metric(key, value, entry["time"], entry["step"], **tied) for key, value in entry["values"].items()
            ]
        for start in range(0, len(points), _BATCH):
            self._client().log_batch(self.run_id, metrics=points[start : start + _BATCH])

    def _parameters(self, entry: Entry) -> None:
        from mlflow.entities import Param

        told = [Param(key, value) for key, value in entry["values"].items()]
        for start in range(0, len(told), 100):  # MLflow takes no more at once
            self._client().log_batch(self.run_id, params=told[start : start + 100])

    def _tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        self._client().log_batch(self.run_id, tags=[RunTag(key, value) for key, value in entry["values"].items()])

    def _text(self, entry: Entry) -> None:
        self._client().log_text(self.run_id, entry["text"], entry["path"])

    def _dataset(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        columns = [{"type": "string", "name": name, "required": True} for name in entry["columns"]]
        dataset = Dataset(
            name=entry["name"],
            digest=entry["digest"],
            source_type="local",
            source=json.dumps({"uri": str(self.directory / "manifest.csv")}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": entry["rows"], "num_elements": entry["rows"] * len(columns)}),
        )
        told = DatasetInput(dataset, [InputTag("mlflow.data.context", entry["context"])])
        self._client().log_inputs(self.run_id, datasets=[told])

    def _artifact(self, entry: Entry) -> None:
        path = self.directory / entry["path"]
        if path.is_dir():
            self._client().log_artifacts(self.run_id, str(path), entry["folder"])
        elif path.is_file():
            self._client().log_artifact(self.run_id, str(path), entry["folder"])
        else:
            raise FileNotFoundError(f"{path} is no longer there")

    def _image(self, entry: Entry) -> None:
        client = self._client()
        # Each call writes files under names of their own, so that a second one would show the picture twice.
        if not any(entry["key"] in Path(item.path).name for item in client.list_artifacts(self.run_id, "images")):
            from PIL import Image

            with Image.open(self.directory / entry["path"]) as picture:
                client.log_image(self.run_id, picture, key=entry["key"], step=0, timestamp=entry["time"])

    def _model(self, entry: Entry) -> None:
        client = self._client()
        experiment = str(client.get_run(self.run_id).info.experiment_id)
        for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{self.run_id}'"):
            if str(model.status) == "READY":
                return
            client.delete_logged_model(model.model_id)  # begun by a process that died
        models.log_model(self._uri, str(self.run_id), self.directory / entry["path"], Path(entry["example"]))

    def _end(self, entry: Entry) -> None:
        self._client().set_terminated(self.run_id, entry["status"], entry["time"])

    def _client(self) -> Any:
        return store.client(self._uri)
