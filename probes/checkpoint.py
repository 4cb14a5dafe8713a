"""From a model reference to files that are safe to read: no pickles unless asked for, no code of a checkpoint ever.

Of a hub repository only the top-level weights, configuration and tokenizer files are fetched, so remote code does not
even arrive.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from probes.digest import AuditError

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class ModelRef:
    """What a model reference points at.

    Attributes:
        kind: a folder on disk, an id on the Hugging Face hub, or a model handed over in memory.
        name: the folder, the id, or the class of the model.
        revision: the hub revision asked for.
    """

    kind: Literal["folder", "hub", "memory"]
    name: str
    revision: str | None = None


def parse(ref: str) -> ModelRef:
    """Reads a model reference: an existing folder is a folder, everything else a hub id `org/name[@REVISION]`.

    Raises:
        AuditError: for a path that does not exist, and text that cannot be a hub id.
    """
    if ref and Path(ref).expanduser().is_dir():
        return ModelRef("folder", str(Path(ref).expanduser()))
    match = _HUB_ID.fullmatch(ref)
    if match is None:
        raise AuditError(
            f"{ref!r} is neither a folder nor a hub id",
            "a folder that holds config.json, or org/name, or org/name@REVISION",
            "Check the path",
        )
    return ModelRef("hub", match["name"], match["revision"])


def fetch(ref: ModelRef, allow_pickle: bool, offline: bool) -> Path:
    """The snapshot folder of a hub id: top-level files only, no code, pickles only when allowed and needed."""
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    def snapshot(*patterns: str) -> Path:
        wanted = ["*.json", "*.txt", "*.model", "*.jinja", *patterns]
        return Path(
            snapshot_download(
                ref.name,
                revision=ref.revision,
                local_files_only=offline,
                allow_patterns=wanted,
                ignore_patterns=["*/*", "consolidated*"],
            )
        )

    asked = ref.name + (f"@{ref.revision}" if ref.revision else "")
    try:
        folder = snapshot("*.safetensors")
        if not any(folder.glob("*.safetensors")):
            # Pickled files are only fetched when they are allowed; their absence is then explained by name.
            folder = snapshot("pytorch_model*.bin*") if allow_pickle else folder
            _refuse_unfetched(asked, folder, allow_pickle)
        return folder
    except hub.GatedRepoError as error:
        found, expected, do = f"{asked} is gated", "access to it", "Accept its terms on the hub and run `hf auth login`"
        raise AuditError(found, expected, do) from error
    except hub.RevisionNotFoundError as error:
        do = "Check the revision"
        raise AuditError(f"{ref.name} has no revision {ref.revision!r}", "a branch, tag or commit", do) from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        do = "Check the spelling; a private model needs `hf auth login`"
        raise AuditError(f"{asked} is neither a folder nor a model on the hub", "one of the two", do) from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
        if offline or isinstance(error, hub.OfflineModeIsEnabled) or "outgoing traffic" in str(error).lower():
            do = "Fetch it once without --offline (and without HF_HUB_OFFLINE), or give a folder"
            raise AuditError(f"{asked} is not in the local cache", "a cached copy, being offline", do) from error
        do = "Check the connection, or give a folder"
        raise AuditError(f"The hub cannot be reached for {asked}", "a connection or a cached copy", do) from error
    except OSError as error:
        do = "Try again, or give a folder"
        raise AuditError(f"Fetching {asked} failed ({first_line(error)})", "a download", do) from error


def _refuse_unfetched(asked: str, folder: Path, allow_pickle: bool) -> None:
    if any(folder.glob("pytorch_model*.bin")):
        return
    raise AuditError(
        f"{asked} has no safetensors weights" + (" and no pickled ones" if allow_pickle else ""),
        "model.safetensors, which cannot run code",
        "Choose a converted revision" + ("" if allow_pickle else ", or pass --allow-pickle if you trust its author"),
    )


def refuse_unsafe(ref: str, folder: Path, allow_pickle: bool) -> bool:
    """Checks the files before anything reads them; True if the weights are pickled and that is allowed."""
    config = folder / "config.json"
    if not config.is_file():
        raise AuditError(f"{ref} holds no config.json", "a checkpoint in Hugging Face format", "Check the path")
    with told(ref):
        content = json.loads(config.read_text("utf-8"))
    if not isinstance(content, dict):
        found = f"{ref} has a config.json that holds a {type(content).__name__}"
        raise AuditError(found, "a JSON object, as save_pretrained writes it", "Save the checkpoint again")
    _refuse_remote_code(ref, content)
    if any(folder.glob("*.safetensors")):
        return False
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if not pickles:
        raise AuditError(f"{ref} holds no weights", "model.safetensors", "Save it with save_pretrained")
    if not allow_pickle:
        raise AuditError(
            f"{ref} has its weights only as a pickle ({pickles[0]})",
            "safetensors, which cannot run code",
            "Convert it, or pass --allow-pickle if you trust where it came from",
        )
    return True


def _refuse_remote_code(ref: str, config: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind, remote = config.get("model_type"), config.get("auto_map")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return
    code = sorted(map(str, remote.values())) if isinstance(remote, dict) else []
    if code:
        raise AuditError(
            f"{ref} wants to run its own code ({code[0]})",
            "an architecture that transformers ships",
            "Use a checkpoint that needs no remote code: it is never run here",
        )
    raise AuditError(
        f"{ref} is of the unknown model type {kind!r}",
        "an architecture that the installed transformers ships",
        "Upgrade transformers, or check config.json",
    )


@contextmanager
def told(ref: str) -> Iterator[None]:
    """Turns what the loaders raise on unreadable checkpoints into one error that names the reference."""
    from safetensors import SafetensorError

    try:
        yield
    except AuditError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own message advises to switch the protection off.
        raise AuditError(
            f"{ref} has a pickle that holds more than tensors",
            "weights that can be read without running anything",
            "Convert it to safetensors where you trust it: it is not unpickled here",
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, EOFError, SafetensorError) as error:
        raise AuditError(
            f"{ref} cannot be loaded ({first_line(error)})",
            "a complete checkpoint with its tokenizer, which needs no code of its own",
            "Check the files, or save them again",
        ) from error


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
