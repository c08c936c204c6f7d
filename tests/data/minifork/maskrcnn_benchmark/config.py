# Written for the tests: where the original keeps its configuration.
from yacs.config import CfgNode

cfg = CfgNode()
