"""The MLflow run that mirrors a run directory, entry by entry; an entry that is sent twice changes nothing."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

from hairline.system import files
from hairline.tracking import models, store
from hairline.tracking.journal import RUN_ID, Entry, Journal, run_id

log = logging.getLogger(__name__)

LARGE = ("artifact", "image", "model")  # kinds of entries that may take long to send
_DIRECTORY = "run_directory"  # tag
_BATCH = 900  # metrics per request; MLflow accepts 1,000
_PARAMETERS = 100  # per request, MLflow's limit
# Retrying does not help: the entry is skipped. All other errors may be an outage.
_REJECTED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")


def own_store(journal: Journal) -> str | None:
    """Return the store of a run, in its own project if that was moved or copied; None if it was never tracked."""
    begun = journal.tracked_start
    return store.followed(begun["uri"], begun.get("directory", ""), journal.directory) if begun else None


class Mirror:
    """The MLflow run of a run directory.

    Attributes:
        journal: Journal of the run directory.
        uri: Tracking server or store, with its password.
        run_id: Its id; None until the first entry was sent.
        experiment_id: Id of its experiment.
    """

    def __init__(self, journal: Journal, uri: str | None) -> None:
        """Mirror a journal to a tracking server or store; see `store.tracking_uri`."""
        self.journal = journal
        self.uri = store.tracking_uri(uri)  # now: the environment may change before the last entry
        self.run_id = run_id(journal.directory)
        self.experiment_id = ""
        self._directory = journal.directory

    def attach(self) -> None:
        """Mark all entries as unsent if the store lacks the run: it was deleted, or lies in another store."""
        if self.run_id is not None and not store.exists(self.uri, self.run_id):
            self.run_id = None
            self.journal.mark_unsent()

    def send(self) -> int:
        """Send the first unsent entries: as many metrics as one request holds, or one entry of another kind.

        Returns:
            Number of entries sent or skipped; 0 if there are none.

        Raises:
            Exception: Of MLflow, SQLAlchemy or the operating system, if the server or store fails.
        """
        entries = self.journal.unsent()
        if not entries:
            return 0
        batch: list[Entry] = []
        size = 0
        for entry in itertools.takewhile(lambda entry: entry["kind"] == "metrics", entries):
            size += len(entry["values"])
            if batch and size > _BATCH:
                break
            batch.append(entry)
        count = self._deliver(batch or entries[:1])
        self.journal.mark_sent(count)
        return count

    def _deliver(self, entries: list[Entry]) -> int:
        first = entries[0]
        try:
            if first["kind"] == "metrics":
                self._metrics(entries)
            else:
                getattr(self, f"_{first['kind']}")(first)
        except (FileNotFoundError, store.load_mlflow().MlflowException) as error:
            if not isinstance(error, FileNotFoundError) and error.error_code not in _REJECTED:
                raise
            if len(entries) > 1:
                return self._deliver([first])  # the others may be accepted
            if first["kind"] in ("metrics", "parameters") and len(first["values"]) > 1:
                for key, value in first["values"].items():
                    self._deliver([{**first, "values": {key: value}}])
                return 1
            name = " ".join(first.get("values") or [first["kind"]])
            log.warning("WARNING: MLflow rejected %s, skipped: %s", name, str(error).splitlines()[0])
        return len(entries)

    def _begin(self, entry: Entry) -> None:
        client = self._client()
        if self.run_id is not None:
            client.update_run(self.run_id, status="RUNNING")
            self.experiment_id = str(client.get_run(self.run_id).info.experiment_id)
            return
        self.experiment_id = store.connect(self.uri, self.journal.start["experiment"])
        tags = {**entry["tags"], _DIRECTORY: str(self._directory)}
        start = entry["time"]
        with store.locked():  # processes that start at once would block each other's writing
            # A killed process may have created the run without saving its id.
            runs = client.search_runs([self.experiment_id], f"attributes.start_time = {start}")
            run = next((run for run in runs if run.data.tags.get(_DIRECTORY) == tags[_DIRECTORY]), None)
            if run is None:
                run = client.create_run(self.experiment_id, start_time=start, tags=tags, run_name=entry["name"])
        self.run_id = str(run.info.run_id)
        files.write_text(self._directory / RUN_ID, self.run_id + "\n")

    def _metrics(self, entries: list[Entry]) -> None:
        from mlflow.entities import Metric

        points = []
        for entry in entries:
            name, digest = entry.get("dataset") or (None, None)
            context = {"model_id": entry.get("model_id"), "dataset_name": name, "dataset_digest": digest}
            points += [
                Metric(key, value, entry["time"], entry["step"], **context) for key, value in entry["values"].items()
            ]
        for start in range(0, len(points), _BATCH):
            self._client().log_batch(self.run_id, metrics=points[start : start + _BATCH])

    def _parameters(self, entry: Entry) -> None:
        from mlflow.entities import Param

        parameters = [Param(key, value) for key, value in entry["values"].items()]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client().log_batch(self.run_id, params=parameters[start : start + _PARAMETERS])

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
            source=json.dumps({"uri": str(self._directory / "manifest.csv")}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": entry["rows"], "num_elements": entry["rows"] * len(columns)}),
        )
        context = InputTag("mlflow.data.context", entry["context"])
        self._client().log_inputs(self.run_id, datasets=[DatasetInput(dataset, [context])])

    def _artifact(self, entry: Entry) -> None:
        path = self._directory / entry["path"]
        if path.is_dir():
            self._client().log_artifacts(self.run_id, str(path), entry["folder"])
        elif path.is_file():
            self._client().log_artifact(self.run_id, str(path), entry["folder"])
        else:
            raise FileNotFoundError(f"{path} does not exist any more")

    def _image(self, entry: Entry) -> None:
        client = self._client()
        # Each call creates new files: a second one would show the image twice.
        if not any(entry["key"] in Path(item.path).name for item in client.list_artifacts(self.run_id, "images")):
            from PIL import Image

            with Image.open(self._directory / entry["path"]) as image:
                client.log_image(self.run_id, image, key=entry["key"], step=0, timestamp=entry["time"])

    def _model(self, entry: Entry) -> None:
        from hairline.model import saved  # late: it imports pandas and SciPy

        folder, client = self._directory / entry["path"], self._client()
        if not (folder / saved.BUNDLE).is_file():
            raise FileNotFoundError(f"{folder} holds no saved model any more")
        experiment = str(client.get_run(self.run_id).info.experiment_id)
        for model in client.search_logged_models([experiment], filter_string=f"source_run_id = '{self.run_id}'"):
            if str(model.status) == "READY":
                return
            client.delete_logged_model(model.model_id)  # left incomplete by a killed process
        models.log_model(self.uri, str(self.run_id), folder, Path(entry["example"]))

    def _end(self, entry: Entry) -> None:
        self._client().set_terminated(self.run_id, entry["status"], entry["time"])

    def _client(self) -> Any:
        return store.client(self.uri)
