"""A site from the MIMIC-IV demo's events: the label is a hospital death after the first day."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

SHARED = Path(__file__).parents[4] / "shared" / "data"
MIMIC = SHARED / "mimic_iv_demo_meds_0.0.1"

SITE = """
[site]
name = "mimic"
device = "cpu"
[data]
events = { format = "meds", path = "meds" }
labels = "labels.parquet"
"""


@pytest.fixture(scope="session")
def mimic_site(tmp_path_factory):
    if not MIMIC.is_dir():
        pytest.skip(f"the MIMIC-IV demo in MEDS is not there ({MIMIC})")
    folder = tmp_path_factory.mktemp("mimic")
    (folder / "meds").symlink_to(MIMIC)
    (folder / "site.toml").write_text(SITE)
    files = sorted(MIMIC.glob("data/*/*.parquet"))
    events = pd.concat(
        [pq.read_table(f, columns=["subject_id", "time", "code"]).to_pandas() for f in files]
    )
    admitted = events[events["code"].str.startswith("HOSPITAL_ADMISSION")]
    died = events.loc[events["code"] == "HOSPITAL_DISCHARGE//DIED", "subject_id"].unique()
    labels = admitted.groupby("subject_id")["time"].min().reset_index(name="prediction_time")
    labels["prediction_time"] += np.timedelta64(24, "h")
    labels["prediction_time"] = labels["prediction_time"].astype("datetime64[us]")
    labels["boolean_value"] = labels["subject_id"].isin(died)
    labels.to_parquet(folder / "labels.parquet", index=False)
    return folder
