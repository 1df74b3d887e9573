voice-call = Volá { $name }
video-call = Videohovor: { $name }
message =
    { $count ->
        [one] Zpráva od: { $name }
        [few] { $count } zprávy od: { $name }
        [many] { $count } zprávy od: { $name }
       *[other] { $count } zpráv od: { $name }
    }
missed-call =
    { $count ->
        [one] Zmeškaný hovor: { $name }
        [few] { $count } zmeškané hovory: { $name }
        [many] { $count } zmeškaného hovoru: { $name }
       *[other] { $count } zmeškaných hovorů: { $name }
    }
contact-request = { $name } si vás chce přidat do kontaktů
voicemail =
    { $count ->
        [one] Hlasová zpráva od: { $name }
        [few] { $count } hlasové zprávy od: { $name }
        [many] { $count } hlasové zprávy od: { $name }
       *[other] { $count } hlasových zpráv od: { $name }
    }
file =
    { $count ->
        [one] { $name } vám posílá soubor
        [few] { $name } vám posílá { $count } soubory
        [many] { $name } vám posílá { $count } souboru
       *[other] { $name } vám posílá { $count } souborů
    }
mail = E-mail od: { $name }
self-test = Zkušební oznámení dorazilo
notice = Něco nového od: { $name }
shown-on = { $event } (zobrazí se na zařízení { $device })
accept = Přijmout
decline = Odmítnout
