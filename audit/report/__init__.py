"""Windows onto a record: figures, the offline page and the notebook view. None computes a number or imports torch."""
