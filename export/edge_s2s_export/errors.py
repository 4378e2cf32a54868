"""What the exporter raises when it refuses to write a bundle."""


class ExportError(Exception):
    """The source cannot become a bundle: an unknown family, activation or setting, a missing file."""


class GateError(ExportError):
    """A check against transformers failed; the message says what differs, where and by how much."""
