"""Downloads that resume, are checked and never hang; and the published data set that is fetched with them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Thread
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit

import filelock
from tqdm import tqdm

from hairline.data.datasets import CONCRETE_CRACKS, Archive, find_classes, install

