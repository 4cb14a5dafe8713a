"""Windows onto a record: figures and the offline page. None computes a number or imports torch."""
