"""Many images → a file of rows."""

import os

# Set before NumPy and pyarrow are imported. A batch uses one process per core, so OpenBLAS's threads would only cost
# memory, and a process without threads can be forked (`serve/batch/signals.py`). Arrow's own allocators reserve memory
# in advance, against the limits under which parquet files are read.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
