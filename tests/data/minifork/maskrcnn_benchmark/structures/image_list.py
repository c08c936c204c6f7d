# Written for the tests.
class ImageList:
    pass
