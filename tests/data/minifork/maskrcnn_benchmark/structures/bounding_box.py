# Written for the tests.
class BoxList:
    pass
