"""Where the steps of a run work: a copy of the results, which is published when all that was asked for is there.

Snakemake removes a step's outputs before the step starts, and again when it fails. So the Snakefile works in
``runs/.study``, which looks like the study's folder: links to everything, and a copy of ``results/``. Until the end the
committed results stay as they were; then each file that changed is replaced, whole, in its place. A run that was killed
goes on in its copy. What changes in ``results/`` between two runs, e.g. by ``git pull``, goes into the copy first.
"""

import logging
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

from llamarec_core.files import alone, clear_partial, read_json, replacing, sha256, write_json, writing


class WorkingCopy:
    """The copy ``folder`` of the study's folder ``root``; ``log`` holds what the steps of the last run printed."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "runs" / ".study"
        self.log = self.folder / "log.txt"
        self._results, self._copies = root / "results", self.folder / "results"
        self._seen = self.folder / "results.json"  # the committed files as the copy began with them
        self._held, self._stopped = ExitStack(), False

    def open(self) -> None:
        """Hold the study against other runs until this process ends, and bring the copy up to date."""
        self._held.enter_context(alone(self.folder))
        with writing(self._copies):
            kernels = self.folder / "kernels"
            shutil.rmtree(kernels, ignore_errors=True)  # where killed kernels leave the files of their connections
            os.environ["JUPYTER_RUNTIME_DIR"] = str(kernels)
            for folder in (self._results, self.root / "runs"):
                for place, _, _ in os.walk(folder):
                    clear_partial(Path(place))
            self._link()
            self._update()
            self.log.write_text("")

    def _link(self) -> None:
        """Let the copy look like the study's folder: links to all of it but the results."""
        places = {self.folder / path.name: path for path in self.root.glob("[!.]*") if path != self._results}
        places[self._copies / "published"] = self._results / "published"
        for link in list(self.folder.iterdir()):
            if link.is_symlink() and link not in places:
                link.unlink()
        for link, path in places.items():
            if not link.is_symlink():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(os.path.relpath(path, link.parent))

    def _update(self) -> None:
        """Take over what changed among the committed results since the last run.

        What an interrupted step removed from the copy stays away: put back, it would pass for what the step had made.
        """
        seen, now = read_json(self._seen) if self._seen.is_file() else {}, _stamps(self._results)
        for path in seen.keys() | now.keys():
            if path not in now:
                (self._copies / path).unlink(missing_ok=True)
            elif seen.get(path) != now[path]:
                with replacing(self._copies / path) as temporary:
                    shutil.copy2(self._results / path, temporary)
        write_json(self._seen, now)

    def publish(self) -> None:
        """Replace the committed results that the run changed, and add what is new."""
        seen, manifest = read_json(self._seen), self._results / "manifest.json"
        changed = [path for path, stamp in _stamps(self._copies).items() if stamp != seen.get(path)]
        with ExitStack() as together:  # all are written before the first takes its place
            for path in changed:
                shutil.copy2(self._copies / path, together.enter_context(replacing(self._results / path)))
        if changed and manifest.is_file():
            listed = read_json(manifest)
            of_study = {path.split("/")[0] for path in listed}  # a person's own profiles have no place there
            listed |= {path: sha256(self._results / path) for path in changed if path.split("/")[0] in of_study}
            write_json(manifest, listed)
        write_json(self._seen, _stamps(self._results))

    def last_words(self) -> str:
        """Return in a sentence why the run ended early, and where the log lies."""
        if self._stopped:
            return "Stopped: the same command goes on from here."
        log = self.log.read_text(errors="replace")
        said = re.findall(r"^(?:InputError|llamarec): (.+)$", log, re.MULTILINE)
        raised = re.findall(r"^(\w+(?:Error|Exception|Interrupt)\b.*)$", log, re.MULTILINE)
        if "DeadKernelError" in log:
            said = ["A notebook's kernel died, as it does where memory runs out: close other programs, and try again."]
        sentence = said[-1] if said else f"A step failed: {raised[-1] if raised else 'it was killed.'}"
        return f"{sentence} (Log: {self.log.relative_to(self.root)})"

    def hush(self) -> None:
        """Let Snakemake say nothing of a step that fails: :meth:`last_words` does, once it has ended."""
        for handler in logging.getLogger("snakemake.logging").handlers:
            if handler.name == "DefaultStreamHandler":
                handler.addFilter(self._is_of_interest)

    def _is_of_interest(self, record: logging.LogRecord) -> bool:
        self._stopped |= record.getMessage().startswith("Terminating")  # by Ctrl-C
        ending = ("Removing output", "Shutting down", "Exiting because", "Complete log", "Elapsed", "Terminating")
        failed = record.levelno >= logging.WARNING or record.getMessage().startswith(ending)
        return not (failed and (self._stopped or self.log.stat().st_size))

    @staticmethod
    def heed_sigterm() -> None:
        """Let SIGTERM end Snakemake, whose handler waits for a lock that the code it interrupts may hold."""
        from snakemake.scheduling.job_scheduler import JobScheduler  # there is one only where the Snakefile runs

        handle = JobScheduler.exit_gracefully
        JobScheduler.exit_gracefully = lambda *arguments: Thread(target=handle, args=arguments).start()


def _stamps(results: Path) -> dict[str, list[int]]:
    """Return of each file that steps write what tells whether it has changed: path → [time, size]."""
    files = {path.relative_to(results): path for path in sorted(results.rglob("[!.]*")) if path.is_file()}
    files = {name: path.stat() for name, path in files.items() if name.parts[0] not in ("published", "manifest.json")}
    return {str(name): [stat.st_mtime_ns, stat.st_size] for name, stat in files.items()}
