"""What stands between our files and a program that reads them: ``__main__``."""
