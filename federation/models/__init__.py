"""The multimodal model: one encoder a modality, one fusion over whatever a patient has."""
