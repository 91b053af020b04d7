"""What a model card asks, in our words, and who answers what no run can know.

Sources: Coalition for Health AI (CHAI), Applied Model Card, schema v0.2, whose parts are kept;
Collins et al., TRIPOD+AI statement, BMJ 2024;385:e078378, whose item numbers are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_LEAD = "the principal investigator"
_COORDINATOR = "the coordinator of the consortium"
_HOSPITALS = "the hospitals"
_CLINIC = "the clinic that uses the model"
_REGULATORY = "the person responsible for regulatory affairs"

ASKED_OF: Mapping[str, str] = {
    "developer": _COORDINATOR,
    "contact": _COORDINATOR,
    "release_stage": _COORDINATOR,
    "release_date": _COORDINATOR,
    "availability": _COORDINATOR,
    "record_systems": _CLINIC,
    "regulatory_approval": _REGULATORY,
    "intended_use": f"{_LEAD}, as study.intended_use of the study",
    "intended_users": _LEAD,
    "how_to_use": _CLINIC,
    "target_population": _LEAD,
    "out_of_scope": _LEAD,
    "clinical_risk": _REGULATORY,
    "rationale": _LEAD,
    "health_inequalities": _LEAD,
    "objectives": _LEAD,
    "data_dates": _HOSPITALS,
    "settings": _HOSPITALS,
    "eligibility": _HOSPITALS,
    "treatments": _HOSPITALS,
    "outcome_definition": _LEAD,
    "outcome_assessment": _HOSPITALS,
    "predictor_choice": _LEAD,
    "sample_size": _LEAD,
    "maintenance": _COORDINATOR,
    "funding": _LEAD,
    "conflicts": _LEAD,
    "protocol": _LEAD,
    "registration": _LEAD,
    "ethics": _LEAD,
    "consent": _HOSPITALS,
    "stakeholders": _LEAD,
    "patients_and_public": _LEAD,
    "goal_usefulness": _LEAD,
    "goal_fairness": _LEAD,
    "goal_safety": _LEAD,
    "interpretation": _LEAD,
    "use_of_poor_input": _CLINIC,
    "user_interaction": _CLINIC,
    "next_steps": _LEAD,
    "publications": _LEAD,
    "evaluation_references": _LEAD,
    "clinical_trials": _LEAD,
    "reimbursement": _REGULATORY,
}
"""Who can answer what a run cannot, by the answer's key."""


@dataclass(frozen=True)
class Question:
    """One item of a card: its number or title, and the keys of its answers, in order."""

    title: str
    keys: tuple[str, ...]
    number: str = ""


CHAI: Mapping[str, tuple[Question, ...]] = {
    "Identity": (
        Question("Name", ("name",)),
        Question("Version", ("version",)),
        Question("Developer", ("developer",)),
        Question("Contact", ("contact",)),
        Question("Release stage", ("release_stage",)),
        Question("Release date", ("release_date",)),
        Question("Availability", ("availability",)),
        Question("Compatible record systems", ("record_systems",)),
        Question("Regulatory approval", ("regulatory_approval",)),
        Question("Summary", ("summary",)),
        Question("Keywords", ("keywords",)),
    ),
    "Uses and directions": (
        Question("Intended use and workflow", ("intended_use",)),
        Question("Primary intended users", ("intended_users",)),
        Question("How to use", ("how_to_use",)),
        Question("Targeted patient population", ("target_population",)),
        Question("Cautioned out-of-scope settings and use", ("out_of_scope",)),
    ),
    "Warnings": (
        Question("Known risks and limitations", ("limits", "warnings")),
        Question("Known biases and ethical considerations", ("worst", "gaps", "ethics")),
        Question("Clinical risk level", ("clinical_risk",)),
    ),
    "Trust ingredients: the system": (
        Question("Outcome and output", ("outcome", "threshold")),
        Question("Model type", ("model_type",)),
        Question("Foundation models", ("foundation_models",)),
        Question("Input data source", ("data_source", "data_dates")),
        Question("Input data type", ("inputs",)),
        Question("Development data", ("patients", "modalities_held", "excluded")),
        Question("Bias mitigation", ("mitigation",)),
        Question("Ongoing maintenance", ("maintenance",)),
        Question("Security and privacy", ("privacy",)),
        Question("Transparency", ("transparency",)),
        Question("Third-party components", ("versions",)),
        Question("Funding", ("funding",)),
        Question("Stakeholders consulted", ("stakeholders",)),
    ),
    "Key metrics": (
        Question("Usefulness and efficacy: goal", ("goal_usefulness",)),
        Question("Usefulness and efficacy: result", ("headline", "comparison")),
        Question("Fairness and equity: goal", ("goal_fairness",)),
        Question("Fairness and equity: result", ("worst", "gaps")),
        Question("Safety and reliability: goal", ("goal_safety",)),
        Question("Safety and reliability: result", ("calibrated", "between", "failures")),
        Question("Interpretation", ("interpretation",)),
        Question("Type of test and data", ("testing",)),
        Question("Validation and its justification", ("splits", "measures")),
    ),
    "Resources": (
        Question("Evaluation references", ("evaluation_references",)),
        Question("Peer-reviewed publications", ("publications",)),
        Question("Clinical trials", ("clinical_trials",)),
        Question("Reimbursement", ("reimbursement",)),
        Question("Patient consent or disclosure", ("consent",)),
    ),
}

TRIPOD_AI: tuple[Question, ...] = (
    Question("Title: development, population, outcome", ("title",), "1"),
    Question("Abstract", ("summary", "headline"), "2"),
    Question("Clinical context and rationale", ("rationale",), "3a"),
    Question("Target population, purpose, users", ("intended_use", "target_population"), "3b"),
    Question("Known health inequalities", ("health_inequalities",), "3c"),
    Question("Objectives", ("objectives",), "4"),
    Question("Sources of data", ("data_source",), "5a"),
    Question("Dates of data", ("data_dates",), "5b"),
    Question("Setting and centres", ("centres", "settings"), "6a"),
    Question("Eligibility", ("eligibility", "excluded"), "6b"),
    Question("Treatments received", ("treatments",), "6c"),
    Question("Preparation and checking of data", ("preparation",), "7"),
    Question("Outcome and time horizon", ("outcome", "outcome_definition"), "8a"),
    Question("Assessors of the outcome", ("outcome_assessment",), "8b, 8c"),
    Question("Choice of predictors", ("predictor_choice",), "9a"),
    Question("Definition of predictors", ("inputs",), "9b, 9c"),
    Question("Sample size", ("sample_size", "patients"), "10"),
    Question("Missing data", ("missing_data",), "11"),
    Question("Use of the data", ("splits",), "12a"),
    Question("Handling of predictors", ("scaling",), "12b"),
    Question("Type of model, building, hyperparameters", ("model_type", "training"), "12c"),
    Question("Heterogeneity between hospitals: methods", ("heterogeneity",), "12d"),
    Question("Measures of performance", ("measures",), "12e"),
    Question("Model updating: methods", ("updating",), "12f"),
    Question("How predictions were calculated", ("predictions",), "12g"),
    Question("Class imbalance", ("imbalance",), "13"),
    Question("Fairness: approach", ("mitigation", "fairness_measured"), "14"),
    Question("Output of the model", ("threshold",), "15"),
    Question("Development against evaluation", ("testing",), "16"),
    Question("Ethical approval", ("ethics", "consent"), "17"),
    Question("Funding", ("funding",), "18a"),
    Question("Conflicts of interest", ("conflicts",), "18b"),
    Question("Protocol", ("protocol",), "18c"),
    Question("Registration", ("registration",), "18d"),
    Question("Sharing of data", ("data_sharing",), "18e"),
    Question("Sharing of code", ("code_sharing",), "18f"),
    Question("Patients and public", ("patients_and_public",), "19"),
    Question("Flow of participants", ("patients", "excluded"), "20a"),
    Question("Characteristics of participants", ("characteristics",), "20b, 20c"),
    Question("Participants and events in each analysis", ("events",), "21"),
    Question("The full model", ("full_model",), "22"),
    Question("Performance, with intervals", ("headline", "calibrated", "worst"), "23a"),
    Question("Heterogeneity between hospitals: results", ("between",), "23b"),
    Question("Model updating: results", ("updated",), "24"),
    Question("Interpretation", ("interpretation",), "25"),
    Question("Limitations", ("limits", "warnings"), "26"),
    Question("Use where input is poor or absent", ("missing_data", "use_of_poor_input"), "27a"),
    Question("What users must do", ("user_interaction",), "27b"),
    Question("Next steps", ("next_steps",), "27c"),
)
