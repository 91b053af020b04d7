"""OMOP CDM 5.4: concepts, source values, dates and times, answers and limits."""

import gzip

import pandas as pd
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from exports import MEASUREMENT, OMOP, PERSON, events_of, omop_site, patients_of, write_export

CONCEPT = 'concept_id\tconcept_name\tvocabulary_id\tconcept_code\n3020460\t5" CRP\tLOINC\t1988-5\n'


def rows_of(events):
    return {
        (r.subject_id, str(r.time), r.code, None if pd.isna(r.numeric_value) else r.numeric_value)
        for r in events.itertuples()
    }


def test_persons_and_measurements_without_a_vocabulary(tmp_path):
    events, told = events_of(omop_site(tmp_path / "site"))
    assert rows_of(events) == {
        (1, "NaT", "GENDER//F", None),
        (2, "NaT", "GENDER//M", None),
        (1, "NaT", "RACE//White", None),
        (2, "NaT", "RACE//Black", None),
        (2, "NaT", "ETHNICITY//Hispanic", None),
        (1, "1960-02-01 00:00:00", "MEDS_BIRTH", None),
        (2, "1950-07-01 00:00:00", "MEDS_BIRTH", None),
        (1, "2024-01-01 10:00:00", "OMOP//3020460", 5.5),
        (2, "2024-01-01 23:59:59.999999", "OMOP//3020460//BELOW_LIMIT", None),
        (2, "2024-01-01 11:00:00", "SOURCE//FLU//OMOP//45884084", None),
    }
    assert told.rows == {}


def test_concepts_have_their_vocabulary_s_codes_where_the_table_is_there(tmp_path):
    events, _ = events_of(omop_site(tmp_path / "site", concept=CONCEPT))
    assert {"LOINC//1988-5", "LOINC//1988-5//BELOW_LIMIT"} <= set(events["code"])


def test_every_clinical_table_gives_its_events(tmp_path):
    tables = {
        "visit_occurrence": "person_id,visit_concept_id,visit_start_date,visit_end_date\n"
        "1,9201,2024-01-01,2024-01-05\n",
        "condition_occurrence": "person_id,condition_concept_id,condition_start_date\n"
        "1,5,2024-01-01\n",
        "drug_exposure": "person_id,drug_concept_id,drug_exposure_start_date\n1,6,2024-01-01\n",
        "procedure_occurrence": "person_id,procedure_concept_id,procedure_date\n1,7,2024-01-01\n",
        "observation": "person_id,observation_concept_id,observation_date,value_as_number\n"
        "1,8,2024-01-01,3\n",
        "death": "person_id,death_date\n1,2024-01-09\n",
    }
    events, _ = events_of(omop_site(tmp_path / "site", measurement=None, **tables))
    timed = events[events["time"].notna() & (events["code"] != "MEDS_BIRTH")]
    assert {(r.code, str(r.time.date())) for r in timed.itertuples()} == {
        ("VISIT_START//OMOP//9201", "2024-01-01"),
        ("VISIT_END//OMOP//9201", "2024-01-05"),
        ("OMOP//5", "2024-01-01"),
        ("OMOP//6", "2024-01-01"),
        ("OMOP//7", "2024-01-01"),
        ("OMOP//8", "2024-01-01"),
        ("MEDS_DEATH", "2024-01-09"),
    }
    assert (timed["time"].dt.hour == 23).all()


def test_parquet_folders_capitals_and_gzip_are_the_same_export(tmp_path):
    plain = omop_site(tmp_path / "plain")
    upper = "\n".join([MEASUREMENT.split("\n")[0].upper(), *MEASUREMENT.split("\n")[1:]])
    pq.write_table(pacsv.read_csv(plain / "data/person.csv"), tmp_path / "person.parquet")
    files = {
        "PERSON/part-0.parquet": (tmp_path / "person.parquet").read_bytes(),
        "MEASUREMENT.csv.gz": gzip.compress(upper.encode()),
    }
    other = write_export(tmp_path / "other", OMOP, files)
    assert rows_of(events_of(other)[0]) == rows_of(events_of(plain)[0])


def test_export_becomes_patients_with_subgroups(tmp_path):
    site = omop_site(tmp_path / "site", person=PERSON)
    text = (site / "site.toml").read_text()
    text = text.replace("[data]\n", '[data]\nsubgroups = ["sex", "age_band", "ethnicity"]\n')
    (site / "site.toml").write_text(text)
    patients = patients_of(site)
    assert {k: v.tolist() for k, v in patients.subgroups.items()} == {
        "sex": ["female", "male"],
        "age_band": ["40-64", "65-79"],
        "ethnicity": ["white", "hispanic"],
    }
