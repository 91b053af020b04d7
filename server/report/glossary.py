"""What each number of the report means, for a clinician, in two sentences.

docs/reading-the-report.md says the same in the same words; docs/metrics.md has the definitions.
"""

from __future__ import annotations

from collections.abc import Mapping

GLOSSARY: Mapping[str, str] = {
    "95% interval": (
        "If the hospitals had sent other patients of the same kind, the number would most likely "
        "lie in this range. Where the range is wide, few patients stand behind it: do not read "
        "differences inside it as real."
    ),
    "Patients": (
        "Patients behind the numbers of the row, none of whom the model saw in training. Below "
        "about 50 with and 50 without the outcome, intervals are wide and hold less often than "
        "they should."
    ),
    "Events": (
        "Patients of the row who have the outcome. Few events limit what can be said more than "
        "few patients do."
    ),
    "withheld": (
        "The hospital did not send this number, because it would be about fewer patients than "
        "its policy allows, or would give such a number away. It says nothing about how well the "
        "model does there."
    ),
    "AUROC": (
        "Take one patient with the outcome and one without: it is the chance that the model gives "
        "the first the higher risk. 0.5 is tossing a coin and 1 is perfect; it does not say "
        "whether the risks themselves are right."
    ),
    "AUPRC": (
        "How often an alarm is right, averaged over all the patients with the outcome as a lower "
        "and lower alarm level finds them. Compare it with the share of patients who have the "
        "outcome, which guessing would reach; it is higher where the outcome is common."
    ),
    "Sensitivity at 90% specificity": (
        "Of the patients with the outcome, the share found if one in ten of the others may be "
        "alarmed falsely. Each row uses the alarm level that suits it best, so it is not a "
        "promise for practice."
    ),
    "Specificity at 90% sensitivity": (
        "Of the patients without the outcome, the share left in peace if nine in ten of those "
        "with it must be found. Each row uses the alarm level that suits it best, so it is not a "
        "promise for practice."
    ),
    "Brier score": (
        "The mean squared distance between the predicted risk and what happened: 0 is perfect, "
        "lower is better. Compare it only among the same patients, because rare outcomes make it "
        "small by themselves."
    ),
    "ECE": (
        "How far predicted risks lie from observed ones, on average: 0.05 means that they are off "
        "by five percentage points. With few patients chance alone makes it larger, so it has no "
        "interval and small groups look worse than they are."
    ),
    "Calibration slope": (
        "1 is right; below 1, high risks are too high and low ones too low, which is usual of a "
        "model that learned from too few patients. If the interval leaves out 1, do not use the "
        "risks as they are, even if the AUROC is good."
    ),
    "Calibration intercept": (
        "0 is right; below 0 the model predicts too much risk on the whole, above 0 too little. A "
        "hospital with a value far from 0 has more or fewer events than the model expects and "
        "should recalibrate it before use."
    ),
    "Predicted risk": (
        "The mean risk that the model gave a group of patients. On the dashed line of the "
        "calibration curve it equals what was observed."
    ),
    "Observed risk": (
        "The share of the same group who had the outcome. Above the dashed line patients fared "
        "worse than they were told, below it better."
    ),
    "Sensitivity": (
        "Of the patients with the outcome, the share that the model calls positive at its one "
        "threshold. The rest are missed."
    ),
    "Specificity": (
        "Of the patients without the outcome, the share that the model does not call positive at "
        "its one threshold. The rest are alarmed falsely."
    ),
    "PPV": (
        "Of the patients called positive, the share who have the outcome. Where the outcome is "
        "rarer it is lower, with the same model."
    ),
    "NPV": (
        "Of the patients not called positive, the share who do not have the outcome. Where the "
        "outcome is rare it is high even for a poor model."
    ),
    "F1": (
        "One number for sensitivity and PPV together, 1 at best. It ignores the patients rightly "
        "left in peace and changes with how common the outcome is, so prefer the two themselves."
    ),
    "Alert rate": (
        "The share of all patients whom the model calls positive. It is the work that the model "
        "makes for a ward."
    ),
    "Number needed to evaluate": (
        "How many patients called positive somebody must look at for each who has the outcome. 1 "
        "is best; 5 means that four of five alarms are false."
    ),
    "Gap": (
        "How far apart the two most different groups of an attribute are. The interval holds for "
        "all pairs of groups at once; one that begins at 0 may be chance."
    ),
    "Net benefit": (
        "Patients rightly treated less those treated for nothing, at the exchange rate that the "
        "threshold stands for, per patient. The model is worth using at thresholds where its "
        "curve lies above both lines, treating everyone and treating no one."
    ),
    "Net benefit, everyone treated": (
        "The net benefit of treating all patients without asking the model. A model that does not "
        "beat it at your threshold is of no use there."
    ),
    "Threshold": (
        "The risk from which on one would act. Choose it by what acting costs: at 0.10 one accepts "
        "nine patients treated for nothing for each who is helped."
    ),
    "Precision": (
        "Of the patients called positive, the share who have the outcome; the same as PPV. Its "
        "curve shows what it falls to as more of the patients with the outcome are to be found."
    ),
    "Worst hospital": (
        "The hospital with the lowest AUROC, with an interval that allows for its being picked as "
        "the lowest. Somebody comes last by chance alone: look at whether its interval lies below "
        "that of the others."
    ),
    "Worst subgroup": (
        "The group of patients with the lowest AUROC, over all hospitals, with an interval that "
        "allows for its being picked as the lowest. If your patients are mostly of this group, "
        "this is the number to judge the model by."
    ),
    "Average AUROC": (
        "The AUROC of the average hospital, each measured within itself. It weighs hospitals "
        "more evenly than the AUROC of all patients together."
    ),
    "One more hospital, 95%": (
        "Where the AUROC of one more hospital like these is to be expected, 95 times in 100. Of "
        "the model trained without the hospital it is the best guess for yours, if yours took no "
        "part."
    ),
    "Variation beyond chance": (
        "The share of the differences between hospitals that chance does not explain. Near 0% "
        "hospitals are alike; above about 50% ask why some do worse."
    ),
    "Difference of AUROC": (
        "The AUROC of the federated model less that of the hospital's own, on its own patients. "
        "Above 0, with an interval that leaves out 0, the hospital gains by joining."
    ),
    "PSI": (
        "Population stability index: how far scores or inputs of a window are spread otherwise "
        "than at first. By custom below 0.1 is stable and above 0.2 is not, but few patients make "
        "it large by chance."
    ),
    "Alarm": (
        "What changed more than chance explains, allowing for everything that was looked at in "
        "the row's hospital. An alarm is a reason to look at the patients and the records of that "
        "time, not a proof that the model fails."
    ),
    "ε": (
        "The most that one patient's being in the training data can change what the model "
        "reveals: the smaller, the better protected. Below about 1 protection is strong, above "
        "about 10 it is weak; it says nothing of the patients on whom the model was only measured."
    ),
    "δ": (
        "The small chance that the promise of ε does not hold. It should be far below one over "
        "the number of patients."
    ),
    "Training loss": (
        "What training makes smaller: how badly the model fits the patients that it learns from. "
        "It should fall and level off; that it is low does not show that the model works on "
        "others."
    ),
    "AUROC (tuning)": (
        "AUROC after each round on patients set aside to follow the training. The model may have "
        "been chosen by it, so judge the model by the held-out AUROC instead."
    ),
    "c-index (tuning)": (
        "c-index after each round on patients set aside to follow the training. The model may have "
        "been chosen by it, so judge the model by the held-out c-index instead."
    ),
    "Mean of the tasks (tuning)": (
        "The mean of each task's first metric, AUROC or c-index, after each round on patients set "
        "aside to follow the training. The model may have been chosen by it, so judge each task "
        "by its held-out figures instead."
    ),
    "With the outcome": (
        "Held-out patients of the hospital who have the outcome, and their share. Where hospitals "
        "differ much, expect calibration to differ too."
    ),
    "Excluded": (
        "Patients whom a hospital could not use, by reason. Many of one reason can mean that the "
        "model was made for other patients than yours."
    ),
    "c-index": (
        "Take two patients of whom it is known who had the outcome first: it is the chance that "
        "the model gave that one the higher risk. 0.5 is tossing a coin and 1 is perfect; it does "
        "not say whether the risks themselves are right."
    ),
    "Integrated Brier score": (
        "The mean squared distance between the predicted risk and what happened, averaged over "
        "the time up to the last horizon: 0 is perfect, lower is better. Compare it only among "
        "the same patients, because rare outcomes make it small by themselves."
    ),
    "Mean": (
        "The mean AUROC of all classes or findings, each counted alike however rare it is. It has "
        "no interval, and hides a class that the model cannot tell: look at each."
    ),
    "Likeliest withheld": (
        "Patients of the row whose likeliest class is not told, because too few patients share "
        "it. They count in no other column of the row."
    ),
}
