"""Why does my net predict only background? `diagnose` knows the stage that every training passes through."""

from minifcn import fcn, models, training
from minifcn.data import ShapeScenes

scenes = ShapeScenes("val", 72, count=4)
net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(7)), 7, stride=8)
for finding in training.diagnose(net, scenes):
    print("-", finding.seen)
net.score["stride32"].bias.data[0] = 3  # all that it has learned: background is common
print("-", training.diagnose(net, scenes)[0].seen)
