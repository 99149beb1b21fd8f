class StudyError(Exception):
    """Something that the user of the study can put right; the message says what."""
