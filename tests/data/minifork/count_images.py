# Written for the tests: a script beside the package that has never been Python. The original carries such a file too.
import json

counts = {}
for line in open("images.txt"):
    if counts[line] = counts.get(line, 0):
        counts[line] += 1
print json.dumps(counts)
