voice-call = { $name } hívja Önt
video-call = { $name } videóhívást kezdeményez
message =
    { $count ->
        [one] Üzenet érkezett, feladó: { $name }
       *[other] { $count } üzenet érkezett, feladó: { $name }
    }
missed-call =
    { $count ->
        [one] Nem fogadott hívás: { $name }
       *[other] { $count } nem fogadott hívás: { $name }
    }
contact-request = { $name } fel szeretné venni Önt a névjegyei közé
voicemail =
    { $count ->
        [one] Hangüzenet érkezett, feladó: { $name }
       *[other] { $count } hangüzenet érkezett, feladó: { $name }
    }
file =
    { $count ->
        [one] { $name } fájlt küld Önnek
       *[other] { $name } { $count } fájlt küld Önnek
    }
mail = E-mail tőle: { $name }
self-test = A próbaértesítés megérkezett
notice = Újdonság, feladó: { $name }
shown-on = { $event } (itt látható: { $device })
accept = Fogadás
decline = Elutasítás
