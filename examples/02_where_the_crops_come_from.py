"""Where do 19, 5, 27, 9 and 31 come from? From the layers: another net, or another padding, has others."""

from minifcn import fcn, models, nn

with nn.init.blank():  # draw no weights
    vgg16 = fcn.convolutionalize(models.vgg16(1000))
    for stride in (32, 16, 8):
        plan = fcn.FCN(vgg16, 21, stride=stride, padding=100).plan
        print(f"FCN-{stride}s", [fusion.fine_offset[0] for fusion in plan.fusions], plan.offset[0])

tiny = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(21)), 21, stride=16)
way = fcn.geometry.explain(tiny, 500)
print(way[way.index("Skip:") :])
