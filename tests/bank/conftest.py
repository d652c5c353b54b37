from hypothesis import settings

settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")
