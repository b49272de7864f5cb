"""Login events from SQS into Postgres, with the personal data masked."""

from loginetl_assets.library_logs import hold_libraries_at_info

hold_libraries_at_info()  # here, where no process that uses any part of the package can go past it
