"""Every exception that edge_s2s defines.

    EdgeS2SError                  base of all, never raised itself
    ├── BundleError               a bundle, or a file in it, is not what it must be
    │   └── UnsupportedVersionError   it is right, but needs another version of edge_s2s
    ├── InputTooLongError         a source has more tokens than the model accepts (also a ValueError)
    ├── ConstraintError           a constraint is none, or no result keeps to it (also a ValueError)
    ├── CloudError                the cloud was not asked, or did not answer as it must
    ├── InsufficientMemoryError   less memory is left than a model needs (also a MemoryError)
    ├── ProviderError             ONNX Runtime does not run the encoder where the caller asked for it
    └── CoreError                 the C core failed in a way that no argument explains

Wrong arguments raise ValueError, exhausted memory raises MemoryError, and using a model in a process that was
forked after it was loaded raises RuntimeError.
"""


class EdgeS2SError(Exception):
    """Base of every exception that edge_s2s defines; never raised itself."""


class BundleError(EdgeS2SError):
    """A bundle is damaged, hostile, or made for another version.

    `file` names the file inside the bundle (or the bundle), `tensor` the tensor if the fault lies in
    one, `expected` and `found` are short texts, `hint` says what to do where that is known.
    """

    def __init__(
        self, file: str, expected: str, found: str, *, tensor: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(file, expected, found)  # what pickle passes to __init__; the rest is in __dict__
        self.file = file
        self.expected = expected
        self.found = found
        self.tensor = tensor
        self.hint = hint

    def __str__(self) -> str:
        where = self.file if self.tensor is None else f'{self.file}: tensor "{self.tensor}"'
        hint = "" if self.hint is None else f"; {self.hint}"
        return f"{where}: expected {self.expected}, found {self.found}{hint}"


class UnsupportedVersionError(BundleError):
    """A bundle that a newer exporter has written: edge_s2s has to be updated, the bundle is not damaged."""


class InputTooLongError(EdgeS2SError, ValueError):
    """A source has more tokens than the model accepts in one pass; the message has both numbers."""


class ConstraintError(EdgeS2SError, ValueError):
    """A constraint cannot be used with this model, or no result keeps to it; the message says why."""


class CloudError(EdgeS2SError):
    """The cloud was not asked, or did not answer as it must; `reason` says in one word why.

    Not asked: `mode`, `privacy`, `device`, `kill_switch`, `budget`, `open_circuit`. No connection: `connect`,
    `tls`. Too late: `timeout`. Not what an answer must be: `status` (`status` has the number), `redirect`,
    `too_large`, `interrupted`, `invalid_response`. `retry_after_s` is what the server asked for.
    """

    def __init__(
        self, reason: str, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})"


class InsufficientMemoryError(EdgeS2SError, MemoryError):
    """Less memory is left than a model needs; `needed` and `left` are bytes, the first an estimate."""

    def __init__(self, path: str, needed: int, left: int) -> None:
        super().__init__(path, needed, left)
        self.path = path
        self.needed = needed
        self.left = left

    def __str__(self) -> str:
        needed, left = self.needed / (1 << 20), self.left / (1 << 20)
        return f"{self.path}: needs {needed:.0f} MiB of memory, {left:.0f} MiB are left; end other programs"


class ProviderError(EdgeS2SError):
    """ONNX Runtime does not run the encoder on the execution provider that was asked for."""


class CoreError(EdgeS2SError):
    """The C core failed; `status` is its negative es2s_status, `message` its explanation."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} (status {self.status})"
