"""Real data sets in their official formats: readers, where they are looked for, checked downloads; no pickles."""

from lossmith.tasks.datasets.download import fetch
from lossmith.tasks.datasets.loading import Entry, catalogue, load
from lossmith.tasks.datasets.places import data_folders
from lossmith.tasks.datasets.records import RawData
from lossmith.tasks.datasets.sources import SOURCES

__all__ = ["SOURCES", "Entry", "RawData", "catalogue", "data_folders", "fetch", "load"]
