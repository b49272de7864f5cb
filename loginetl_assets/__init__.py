"""Login events from SQS into Postgres, with IP addresses and device ids masked."""

from loginetl_assets.library_logs import hold_libraries

hold_libraries()  # here, where no process that uses any part of the package can go past it
